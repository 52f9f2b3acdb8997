-- Append a record to a session's cell log. One cell has one record: another one for a cell that has been logged comes
-- in place of the first, at the end; the same one again (its first reply was lost with the connection) changes nothing.
-- KEYS: the log, where each cell stands in it
-- ARGV: cell id, record (packed)
-- Replies its place: above all others that were ever given.
local place = redis.call('HGET', KEYS[2], ARGV[1])
if place then
  local entry = redis.call('XRANGE', KEYS[1], place .. '-0', place .. '-0')[1]
  if entry and entry[2][2] == ARGV[2] then return tonumber(place) end
end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', '1')[1]
local seq = last and tonumber(string.match(last[1], '^%d+')) + 1 or 1
redis.call('XADD', KEYS[1], string.format('%d-0', seq), 'r', ARGV[2])
if place then redis.call('XDEL', KEYS[1], place .. '-0') end
redis.call('HSET', KEYS[2], ARGV[1], string.format('%d', seq))
return seq
