-- Drop the oldest entries of a stream, which stand in a segment by now, and note that segment.
-- KEYS: the stream, its segments, the hash that counts the stream's bytes
-- ARGV: first and last entry of the segment, the segment, its bytes
-- Replies 'sealed' or 'moved': these entries are not the oldest (any more).
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if not oldest or oldest[1] ~= ARGV[1] .. '-0' then return 'moved' end
redis.call('RPUSH', KEYS[2], ARGV[3])
redis.call('XTRIM', KEYS[1], 'MINID', string.format('%d-0', tonumber(ARGV[2]) + 1))
redis.call('HINCRBY', KEYS[3], 'open_bytes', '-' .. ARGV[4])
return 'sealed'
