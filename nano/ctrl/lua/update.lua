-- Gives the entry a new meta, and begins its lease anew. ARGV: token, cap, id, incarnation, meta.
-- Returns as heartbeat.lua does.
local cap, id, incarnation, meta = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local record = redis.call('HGET', ENTRIES, id)
if not record then return 'unknown' end
local holder, lease = fields(record)
if holder ~= incarnation then return 'replaced' end
store('updated', id, incarnation, lease, meta, cap)
return 'ok'
