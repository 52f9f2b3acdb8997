-- Run commands that leave keys of one tenant behind, all of them or, for a tenant that is erased, none.
-- KEYS: of the commands, in order   ARGV: for each command how many words it has, then these
-- Replies what each command replied.
local replies = {}
local at = 1
while at <= #ARGV do
  local words = tonumber(ARGV[at])
  replies[#replies + 1] = redis.call(unpack(ARGV, at + 1, at + words))
  at = at + words + 1
end
return replies
