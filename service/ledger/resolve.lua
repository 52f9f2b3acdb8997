-- Resolve a reservation: once, one way. The theory stands in reserve.lua.
--
-- KEYS: reservation, reservations by expiry, then (settle only) the run's entries and the rows that were spent from
-- ARGV: reservation id, 'settle' | 'release' | 'expire', seconds to remember the outcome,
--       settle: entry, then per row the amount spent
--       expire: now
-- Replies 'done' | 'resolved' | 'unknown' | 'early' | 'overflow'
--
-- Releasing and expiring touch rows that only the reservation knows; they stand in the same slot as the reservation.
local id, how = ARGV[1], ARGV[2]
local flat = redis.call('HGETALL', KEYS[1])
local kept = {}
for i = 1, #flat, 2 do kept[flat[i]] = flat[i + 1] end
if not kept['state'] then
  redis.call('ZREM', KEYS[2], id)
  return 'unknown'
end
if kept['state'] ~= 'held' then return 'resolved' end
if how == 'expire' and tonumber(kept['expires_at']) > tonumber(ARGV[4]) then return 'early' end

local over = false
if how == 'settle' then
  for i = 4, #KEYS do
    local spent = tonumber(redis.call('HGET', KEYS[i], 'spent') or '0')
    if spent + tonumber(ARGV[i + 1]) > 9e18 then return 'overflow' end
    if tonumber(ARGV[i + 1]) > tonumber(kept['held:' .. KEYS[i]] or '0') then over = true end
  end
  for i = 4, #KEYS do redis.call('HINCRBY', KEYS[i], 'spent', ARGV[i + 1]) end
  if over then
    redis.call('XADD', KEYS[3], '*', 'e', ARGV[4], 'f', 'over_estimate')
  else
    redis.call('XADD', KEYS[3], '*', 'e', ARGV[4])
  end
elseif how == 'expire' then
  redis.call('XADD', kept['entries'], '*', 'e', kept['if_lost'], 'f', 'uncertain')
end
for field, amount in pairs(kept) do
  local row = string.match(field, '^back:(.*)$')
  if row then
    redis.call('HINCRBY', row, 'held', amount)
    redis.call('SREM', row .. ':open', id)
    if how == 'expire' then redis.call('HINCRBY', row, 'spent', kept['held:' .. row]) end
  end
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'state', how == 'release' and 'released' or 'settled', 'amounts', kept['amounts'])
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('ZREM', KEYS[2], id)
return 'done'
