-- Hold the amounts of several charges, one after the other, each on all accounts or on none.
--
-- The theory, which resolve.lua shares:
--   An account has a row, a hash of counters (`spent:<unit>`, `held:<unit>`), one per day or month where it counts by
--   these, and a hash of limits (`<period or all>:<unit>`; absent: none) that belongs to its owner. A charge has a hold,
--   a string: `held <canonical>\n<facts as JSON>` until it is resolved, then `settled <canonical>` or
--   `released <canonical>\n<facts>`, which is forgotten some day. The canonical says what was asked, to recognise a repeat.
--   The facts name the rows that hold it, so it settles where it was held, whatever day it is by then.
--   Lua numbers are doubles. No amount, limit or sum of what one script adds passes 2^53, so they are exact; they become
--   text by '%.0f' alone, and counters change by HINCRBY only.
--   Everything is checked before anything is written, because a script that fails half-way is not rolled back.
--
-- KEYS: holds by expiry, then per account its row and its limits, then per charge its hold
-- ARGV: number of accounts, largest amount, expires at, then per account the prefix of its limits and when its row may
--       be forgotten ('' never), then per charge: id, amount in each unit, canonical, facts
-- Replies {held, 'all' | 'conflict' | 'resolved'} or {held, 'refused', account from 1, unit from 1, limit, spent, held}:
-- how many charges are held, and what is the matter with the next one.
local UNITS = {'nano_usd', 'tokens', 'sub_calls'}
local accounts, largest = tonumber(ARGV[1]), ARGV[2]
local first = 2 + 2 * accounts
local limit, spent, held = {}, {}, {}
for i = 1, accounts do
  local prefix = ARGV[2 + 2 * i]
  local row = redis.call('HMGET', KEYS[2 * i], 'spent:nano_usd', 'spent:tokens', 'spent:sub_calls', 'held:nano_usd',
    'held:tokens', 'held:sub_calls')
  local limits = redis.call('HMGET', KEYS[2 * i + 1], prefix .. ':nano_usd', prefix .. ':tokens', prefix .. ':sub_calls')
  for u = 1, 3 do
    local at = 3 * i + u
    limit[at], spent[at], held[at] = tonumber(limits[u] or largest), tonumber(row[u] or '0'), tonumber(row[3 + u] or '0')
  end
end

local added = {0, 0, 0}
local holds, expiries = {}, {}
local reply = {'all'}
local count = 0
local known = redis.call('MGET', unpack(KEYS, first))
for c = 1, #known do
  local base = 3 + 2 * accounts + 6 * (c - 1)
  local canonical = ARGV[base + 5]
  if known[c] then
    local state, kept = string.match(known[c], '^(%a+) ([^\n]*)')
    if kept ~= canonical then reply = {'conflict'} break end
    if state ~= 'held' then reply = {'resolved'} break end
  else
    local amount = {tonumber(ARGV[base + 2]), tonumber(ARGV[base + 3]), tonumber(ARGV[base + 4])}
    for i = 1, accounts do
      for u = 1, 3 do
        local at = 3 * i + u
        if amount[u] > 0 and spent[at] + held[at] + added[u] + amount[u] > limit[at] then
          reply = {'refused', i, u, string.format('%.0f', limit[at]), string.format('%.0f', spent[at]),
            string.format('%.0f', held[at] + added[u])}
          break
        end
      end
      if reply[1] == 'refused' then break end
    end
    if reply[1] == 'refused' then break end
    for u = 1, 3 do added[u] = added[u] + amount[u] end
    holds[#holds + 1] = KEYS[first + c - 1]
    holds[#holds + 1] = 'held ' .. canonical .. '\n' .. ARGV[base + 6]
    expiries[#expiries + 1] = ARGV[3]
    expiries[#expiries + 1] = ARGV[base + 1]
  end
  count = c
end

if #holds > 0 then
  redis.call('MSET', unpack(holds))
  redis.call('ZADD', KEYS[1], unpack(expiries))
  for i = 1, accounts do
    for u = 1, 3 do
      if added[u] > 0 then redis.call('HINCRBY', KEYS[2 * i], 'held:' .. UNITS[u], string.format('%.0f', added[u])) end
    end
    if ARGV[3 + 2 * i] ~= '' then redis.call('EXPIREAT', KEYS[2 * i], ARGV[3 + 2 * i]) end
  end
end
return {count, unpack(reply)}
