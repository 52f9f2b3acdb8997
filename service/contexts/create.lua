-- Keep a context's record, unless the tenant has the same one already.
-- KEYS: record, index, records by fingerprint, transient contexts by when they were last brought along
-- ARGV: context id, record (packed), fingerprint, key prefix of records, 'kept', 'transient' or 'unlisted'
-- Replies the id under which it is kept.
local known = redis.call('HGET', KEYS[3], ARGV[3])
local is_new = not known or redis.call('EXISTS', ARGV[4] .. known) == 0
if is_new then
  known = ARGV[1]
  redis.call('SET', KEYS[1], ARGV[2])
  redis.call('HSET', KEYS[3], ARGV[3], known)
end
if ARGV[5] ~= 'unlisted' then redis.call('ZADD', KEYS[2], '0', known) end
if ARGV[5] == 'kept' then
  redis.call('ZREM', KEYS[4], known)
elseif ARGV[5] == 'transient' and (is_new or redis.call('ZSCORE', KEYS[4], known)) then
  local time = redis.call('TIME')
  redis.call('ZADD', KEYS[4], string.format('%.6f', tonumber(time[1]) + tonumber(time[2]) / 1000000), known)
end
return known
