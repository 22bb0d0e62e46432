-- Adds an entry, or takes over a name from another incarnation (its holder's next heartbeat hears of it).
-- ARGV: token, cap, id, incarnation, lease in ms, meta. Returns the entry's revision.
local cap, id, incarnation, lease, meta = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6]
epoch()
local type = 'added'
local old = redis.call('HGET', ENTRIES, id)
if old then
  if fields(old) == incarnation then type = 'updated' else drop('removed', id, cap) end
end
local min_lease = tonumber(redis.call('HGET', STATE, 'min_lease'))
if not min_lease or lease < min_lease then redis.call('HSET', STATE, 'min_lease', lease) end
return store(type, id, incarnation, lease, meta, cap)
