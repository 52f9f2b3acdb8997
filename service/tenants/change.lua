-- Replace a record, if it is still what the change was made from.
--
-- KEYS: the hash
-- ARGV: record before, record after, then further fields and their values (an empty value removes the field)
-- Replies 'done' | 'changed'
local found = redis.call('HGET', KEYS[1], 'record')
if found == ARGV[2] and ARGV[1] ~= ARGV[2] then return 'done' end
if found ~= ARGV[1] then return 'changed' end
redis.call('HSET', KEYS[1], 'record', ARGV[2])
for i = 3, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
return 'done'
