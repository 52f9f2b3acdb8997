-- Claim a client's request for whoever is about to do it, or find what it stands for.
-- KEYS: the request
-- ARGV: digest of its body, what it shall stand for, token of this claim, now (s), claimed until (s), kept for (ms),
-- what it shall not stand for any more (or empty)
-- Replies {'claimed' | 'done' | 'busy' | 'differs', what it stands for}.
-- A claim whose time is over belonged to a replica that died: the next one takes it, and what it stands for stays.
local found = redis.call('HMGET', KEYS[1], 'body', 'target', 'token', 'until')
if not found[1] or (not found[3] and found[2] == ARGV[7]) then
  redis.call('HSET', KEYS[1], 'body', ARGV[1], 'target', ARGV[2], 'token', ARGV[3], 'until', ARGV[5])
  redis.call('PEXPIRE', KEYS[1], ARGV[6])
  return {'claimed', ARGV[2]}
end
if found[1] ~= ARGV[1] then return {'differs', ''} end
if not found[3] then return {'done', found[2]} end
if found[3] ~= ARGV[3] and tonumber(found[4]) > tonumber(ARGV[4]) then return {'busy', found[2]} end
redis.call('HSET', KEYS[1], 'token', ARGV[3], 'until', ARGV[5])
return {'claimed', found[2]}
