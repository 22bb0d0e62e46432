-- The entries whose lease runs; changes nothing. ARGV: token. Returns {id, record, id, record, …}.
-- When the last sweep is late, Redis was away and leases are owed that time (sweep.lua). When it is minutes late
-- nobody watches this scope, and leases count as they stand.
local NOBODY_WATCHES = 300000
local time = now()
local state = redis.call('HMGET', STATE, 'swept', 'interval')
local away = time - tonumber(state[1] or time)
local owed = 0
if away > 2 * tonumber(state[2] or 0) and away < NOBODY_WATCHES then owed = away end
local running = redis.call('ZRANGEBYSCORE', LEASES, string.format('(%d', time - owed), '+inf')
local found = {}
for _, id in ipairs(running) do
  found[#found + 1] = id
  found[#found + 1] = redis.call('HGET', ENTRIES, id)
end
return found
