-- Before every fenced script (`scripts.load_fenced_script`): does nothing unless every epoch still stands.
-- KEYS: the fence's hashes, then the script's own   ARGV: how many, their epochs, then the script's own
local fences = tonumber(ARGV[1])
for i = 1, fences do
  if redis.call('HGET', KEYS[i], 'epoch') ~= ARGV[i + 1] then return 'stale' end
end
-- One by one: `unpack` puts them on Lua's stack, which has room for some eight thousand.
local own_keys, own_arguments = {}, {}
for i = fences + 1, #KEYS do own_keys[i - fences] = KEYS[i] end
for i = fences + 2, #ARGV do own_arguments[i - fences - 1] = ARGV[i] end
local KEYS, ARGV = own_keys, own_arguments
