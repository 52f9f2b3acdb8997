-- Drop the oldest entries of a stream, which stand in a segment by now, and note that segment.
-- KEYS: the stream, its segments, the hash that counts the stream's bytes
-- ARGV: first and last entry of the segment, the segment, its bytes, when it began to be put, for how long (both in
-- seconds, by the server's clock) it is certainly still there
-- Replies 'sealed', or 'moved': these entries are not the oldest (any more), or 'late': it may be gone.
if tonumber(redis.call('TIME')[1]) - tonumber(ARGV[5]) > tonumber(ARGV[6]) then return 'late' end
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if not oldest or oldest[1] ~= ARGV[1] .. '-0' then return 'moved' end
redis.call('RPUSH', KEYS[2], ARGV[3])
redis.call('XTRIM', KEYS[1], 'MINID', string.format('%d-0', tonumber(ARGV[2]) + 1))
redis.call('HINCRBY', KEYS[3], 'open_bytes', '-' .. ARGV[4])
return 'sealed'
