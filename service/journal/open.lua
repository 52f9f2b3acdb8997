-- Create a run with its first event and those it inherits, or find it created already.
-- KEYS: run, its events, the index it is listed in, leases of unfinished runs
-- ARGV: run id, first event (packed), digest of that event, session id, who keeps it from now on ('' for nobody), for how
--       long (seconds; '' for a child run, which is kept with its root), 'finish' or '' (whether the last event ends it), then
--       the packed events it inherits
-- Replies 'opened', 'again' (same event) or 'taken' (another event).
local digest = redis.call('HGET', KEYS[1], 'submitted')
if digest then
  if digest == ARGV[3] then return 'again' end
  return 'taken'
end
local seq = string.format('%d', #ARGV - 6)
redis.call('XADD', KEYS[2], '1-0', 'e', ARGV[2])
local size = #ARGV[2]
for i = 8, #ARGV do
  redis.call('XADD', KEYS[2], string.format('%d-0', i - 6), 'e', ARGV[i])
  size = size + #ARGV[i]
end
redis.call('HSET', KEYS[1], 'submitted', ARGV[3], 'epoch', '1', 'seq', seq, 'session', ARGV[4], 'keeper', ARGV[5],
  'open_bytes', string.format('%d', size))
redis.call('ZADD', KEYS[3], '0', ARGV[1])
if ARGV[7] == 'finish' then
  redis.call('HSET', KEYS[1], 'finished', redis.call('TIME')[1])
elseif ARGV[6] ~= '' then
  local until_s = 0
  if ARGV[6] ~= '0' then
    local time = redis.call('TIME')
    until_s = tonumber(time[1]) + tonumber(time[2]) / 1000000 + tonumber(ARGV[6])
  end
  redis.call('ZADD', KEYS[4], string.format('%.3f', until_s), ARGV[1])
end
return 'opened'
