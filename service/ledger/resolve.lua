-- Resolve holds: each once, one way. The theory stands in reserve.lua.
--
-- KEYS: holds by expiry, a hash that fences (or the first again), then per charge its hold
-- ARGV: 'settle' | 'release' | 'expire', seconds to remember an outcome, now, field and value that the fence must have
--       ('' for no fence), then per charge its id; and to settle also: entry, model, nano-USD, input tokens, cached input
--       tokens, output tokens, sub-calls
-- Replies 'fenced', or per charge 'done' | 'late' | 'resolved' | 'unknown' | 'early' | 'overflow'
--
-- A hold that was given back keeps its facts: should its call turn out to have been made after all, it is settled where
-- it had been held, in full and flagged `late`. The provider was paid, so refusing it would only hide it; what it leaves
-- the accounts with refuses the next calls.
--
-- The rows and reports that are written to are those that the hold names; they stand in the same slot as the hold.
local UNITS = {'nano_usd', 'tokens', 'sub_calls'}
local SAFE = 9007199254740991
local how, remember = ARGV[1], ARGV[2]
if ARGV[4] ~= '' and redis.call('HGET', KEYS[2], ARGV[4]) ~= ARGV[5] then return 'fenced' end

local sums, order, kept_until, counters = {}, {}, {}, {}
local function add(key, field, number)
  -- One HINCRBY for all charges together; before a sum could become inexact, what there is of it is written.
  local fields = sums[key]
  if not fields then
    fields = {}
    sums[key] = fields
    order[#order + 1] = key
  end
  local sum = fields[field] or 0
  if math.abs(sum + number) > SAFE then
    redis.call('HINCRBY', key, field, string.format('%.0f', sum))
    sum = 0
  end
  fields[field] = sum + number
end

local width = how == 'settle' and 8 or 1
local known = redis.call('MGET', unpack(KEYS, 3))
local replies, gone, booking = {}, {}, {}
local seen = {}
for c = 1, #known do
  local base = 5 + width * (c - 1)
  local id = ARGV[base + 1]
  local state, canonical, facts
  if known[c] then state, canonical, facts = string.match(known[c], '^(%a+) ([^\n]*)\n?(.*)$') end
  if not state then
    replies[c] = 'unknown'
    gone[#gone + 1] = id
  elseif seen[id] or not (state == 'held' or (state == 'released' and how == 'settle' and facts ~= '')) then
    replies[c] = 'resolved'
  else
    local hold = cjson.decode(facts)
    if how == 'expire' and hold.expires_at > tonumber(ARGV[3]) then
      replies[c] = 'early'
    else
      local spent = nil
      if how == 'settle' then
        spent = {tonumber(ARGV[base + 4]), tonumber(ARGV[base + 5]) + tonumber(ARGV[base + 7]), tonumber(ARGV[base + 8])}
      elseif how == 'expire' then
        spent = hold.amount
      end
      local fits = true
      if spent then
        for _, row in ipairs(hold.rows) do
          local before = counters[row]
          if not before then
            before = redis.call('HMGET', row, 'spent:nano_usd', 'spent:tokens', 'spent:sub_calls')
            counters[row] = before
          end
          for u = 1, 3 do
            before[u] = tonumber(before[u] or '0') + spent[u]
            if before[u] > 9e18 then fits = false end
          end
        end
      end
      if fits then
        replies[c] = state == 'held' and 'done' or 'late'
        seen[id] = true
        booking[#booking + 1] = {c, hold, spent, canonical, id, base, state == 'held', facts}
      else
        replies[c] = 'overflow'
      end
    end
  end
end

for _, booked in ipairs(booking) do
  local c, hold, spent, canonical, id, base, is_held, facts = unpack(booked, 1, 8)
  for _, row in ipairs(hold.rows) do
    for u = 1, 3 do
      if is_held and hold.amount[u] ~= 0 then add(row, 'held:' .. UNITS[u], -hold.amount[u]) end
      if spent and spent[u] ~= 0 then add(row, 'spent:' .. UNITS[u], spent[u]) end
    end
  end
  if spent then
    local entry, model, tokens, flag = hold.entry, hold.model, hold.tokens, 'uncertain'
    if how == 'settle' then
      entry, model, flag = ARGV[base + 2], ARGV[base + 3], nil
      tokens = {tonumber(ARGV[base + 5]), tonumber(ARGV[base + 6]), tonumber(ARGV[base + 7])}
      for u = 1, 3 do if spent[u] > hold.amount[u] then flag = 'over_estimate' end end
      if not is_held then flag = 'late' end
    end
    if flag then
      redis.call('XADD', hold.entries, '*', 'e', entry, 'f', flag)
    else
      redis.call('XADD', hold.entries, '*', 'e', entry)
    end
    for i = 1, #hold.reports do
      local cell = model .. '\31' .. hold.cells[i] .. '\31'
      add(hold.reports[i], cell .. 'calls', 1)
      add(hold.reports[i], cell .. 'nano_usd', spent[1])
      add(hold.reports[i], cell .. 'input_tokens', tokens[1])
      add(hold.reports[i], cell .. 'cached_input_tokens', tokens[2])
      add(hold.reports[i], cell .. 'output_tokens', tokens[3])
      add(hold.reports[i], cell .. 'sub_calls', spent[3])
      kept_until[hold.reports[i]] = string.format('%.0f', hold.kept_until[i])
    end
  end
  local outcome = 'settled ' .. canonical
  if how == 'release' then outcome = 'released ' .. canonical .. '\n' .. facts end
  redis.call('SET', KEYS[2 + c], outcome, 'EX', remember)
  gone[#gone + 1] = id
end
for _, key in ipairs(order) do
  for field, sum in pairs(sums[key]) do
    if sum ~= 0 then redis.call('HINCRBY', key, field, string.format('%.0f', sum)) end
  end
  if kept_until[key] then redis.call('EXPIREAT', key, kept_until[key]) end
end
if #gone > 0 then redis.call('ZREM', KEYS[1], unpack(gone)) end
return replies
