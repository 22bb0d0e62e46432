-- Begins the entry's lease anew. ARGV: token, cap, id, incarnation.
-- Returns "ok", "unknown" (not registered) or "replaced" (another incarnation has the name).
local id, incarnation = ARGV[3], ARGV[4]
local record = redis.call('HGET', ENTRIES, id)
if not record then return 'unknown' end
local holder, lease = fields(record)
if holder ~= incarnation then return 'replaced' end
redis.call('ZADD', LEASES, now() + lease, id)
return 'ok'
