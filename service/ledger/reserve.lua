-- Hold amounts on all rows, or on none.
--
-- The theory, which resolve.lua shares:
--   A row is a hash: `spent`, `held`, `limit` (absent: none). A reservation is a hash: `state` (held, settled,
--   released), `amounts` (canonical, to recognise a repeat), `expires_at`, `if_lost` (the entry to book if nobody comes
--   back), and per row `held:<row>` and `back:<row>`, the amount and the same with a minus sign.
--   Lua numbers are doubles. They are only ever *compared* here, and no amount or limit passes 2^53. What is written is
--   the string that came in, by HINCRBY: a number is never turned into text, hence the stored negative.
--   Everything is checked before anything is written, because a script that fails half-way is not rolled back.
--
-- KEYS: reservation, reservations by expiry, then the rows
-- ARGV: reservation id, expires at, amounts (canonical), if_lost, entries key of if_lost, largest amount,
--       then per row: amount, negated amount
-- Replies {'held'} | {'resolved'} | {'conflict'} | {'refused', row index from 1, limit, spent, held}
local known = redis.call('HMGET', KEYS[1], 'state', 'amounts')
if known[1] then
  if known[2] ~= ARGV[3] then return {'conflict'} end
  if known[1] ~= 'held' then return {'resolved'} end
  return {'held'}
end
local rows = #KEYS - 2
for i = 1, rows do
  local row = redis.call('HMGET', KEYS[i + 2], 'limit', 'spent', 'held')
  local limit = row[1] or ARGV[6]
  local spent = row[2] or '0'
  local held = row[3] or '0'
  if tonumber(spent) + tonumber(held) + tonumber(ARGV[5 + 2 * i]) > tonumber(limit) then
    return {'refused', i, limit, spent, held}
  end
end
redis.call('HSET', KEYS[1], 'state', 'held', 'amounts', ARGV[3], 'expires_at', ARGV[2], 'if_lost', ARGV[4],
  'entries', ARGV[5])
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
for i = 1, rows do
  local row = KEYS[i + 2]
  redis.call('HINCRBY', row, 'held', ARGV[5 + 2 * i])
  redis.call('HSET', KEYS[1], 'held:' .. row, ARGV[5 + 2 * i], 'back:' .. row, ARGV[6 + 2 * i])
  redis.call('SADD', row .. ':open', ARGV[1])
end
return {'held'}
