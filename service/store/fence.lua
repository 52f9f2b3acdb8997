-- Before every fenced script (`scripts.load_fenced_script`): does nothing unless every epoch still stands.
-- KEYS: the fence's hashes, then the script's own   ARGV: how many, their epochs, then the script's own
local fences = tonumber(ARGV[1])
for i = 1, fences do
  if redis.call('HGET', KEYS[i], 'epoch') ~= ARGV[i + 1] then return 'stale' end
end
local KEYS, ARGV = {unpack(KEYS, fences + 1)}, {unpack(ARGV, fences + 2)}
