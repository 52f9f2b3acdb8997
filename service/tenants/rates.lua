-- Take from buckets that drain by the minute: from all of them, or from none.
--
-- The theory: a bucket knows how much of it is used. Used is counted in sixty-thousandths of what it counts, and a limit
-- of L per minute drains L of them each millisecond; so everything is a whole number, whatever the limit, and a limit
-- may change while its bucket is in use. What fits at most is a minute's worth at once. Limits go up to 10^9 and a bucket
-- to two minutes' worth, 1.2 * 10^14: all of it exact in a double. The time comes from the caller; a bucket never goes
-- back in time.
--
-- KEYS: buckets
-- ARGV: now in ms, 'take' or 'correct', then per bucket: limit per minute, amount
-- Replies {index of the refusing bucket or 0, ms until all fits or -1 for never, then per bucket: remaining, ms to empty}
--
-- `correct` is for what turned out to be more (or, negative, less) than was taken: it is never refused, and what is
-- owed is a minute's worth at most.
local now, how = tonumber(ARGV[1]), ARGV[2]
local used, since = {}, {}
local refused, wait = 0, 0
for i = 1, #KEYS do
  local limit, amount = tonumber(ARGV[1 + 2 * i]), tonumber(ARGV[2 + 2 * i])
  local kept = redis.call('HMGET', KEYS[i], 'used', 'at')
  local before, at = tonumber(kept[1] or '0'), tonumber(kept[2] or '0')
  local elapsed = math.max(0, now - at)
  local left = math.max(0, before - elapsed * limit)
  local wanted = left + amount * 60000
  local full = limit * 60000
  if how == 'take' and amount > 0 and wanted > full then
    refused = refused == 0 and i or refused
    if amount > limit then
      wait, refused = -1, i
      break
    end
    if wait >= 0 then wait = math.max(wait, math.ceil((wanted - full) / limit)) end
    wanted = left
  end
  used[i] = math.max(0, math.min(wanted, 2 * full))
  since[i] = math.max(now, at)
end
local reply = { refused, wait }
for i = 1, #KEYS do
  local limit, amount = tonumber(ARGV[1 + 2 * i]), tonumber(ARGV[2 + 2 * i])
  local now_used = used[i]
  if refused == 0 then
    local empty_ms = limit > 0 and math.ceil(now_used / limit) or 0
    redis.call('HSET', KEYS[i], 'used', string.format('%.0f', now_used), 'at', string.format('%.0f', since[i]))
    redis.call('PEXPIRE', KEYS[i], string.format('%.0f', empty_ms + 60000))
  else
    local kept = redis.call('HMGET', KEYS[i], 'used', 'at')
    local elapsed = math.max(0, now - tonumber(kept[2] or '0'))
    now_used = math.max(0, tonumber(kept[1] or '0') - elapsed * limit)
  end
  reply[#reply + 1] = math.max(0, math.floor((limit * 60000 - now_used) / 60000))
  reply[#reply + 1] = limit > 0 and math.ceil(now_used / limit) or 0
end
return reply
