-- Append a record to a session's cell log, once per cell.
-- KEYS: the log, where each cell stands in it
-- ARGV: cell id, record (packed)
-- Replies its place, from 1.
local place = redis.call('HGET', KEYS[2], ARGV[1])
if place then return tonumber(place) end
local seq = redis.call('HLEN', KEYS[2]) + 1
redis.call('HSET', KEYS[2], ARGV[1], string.format('%d', seq))
redis.call('XADD', KEYS[1], string.format('%d-0', seq), 'r', ARGV[2])
return seq
