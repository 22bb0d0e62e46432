-- Everything that is registered, at one revision. ARGV: token. Returns {epoch, revision, {id, record, id, record, …}}.
local at = epoch()
return {at, revision(), redis.call('HGETALL', ENTRIES)}
