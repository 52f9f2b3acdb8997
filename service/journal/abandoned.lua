-- The unfinished root runs that nobody keeps now, longest abandoned first.
-- KEYS: leases of unfinished runs   ARGV: how many at most
local time = redis.call('TIME')
local now = string.format('(%.3f', tonumber(time[1]) + tonumber(time[2]) / 1000000)
return redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE', 'LIMIT', '0', ARGV[1])
