
-- Running locks, for Redis; the same rules as in `memory/running.rs`.
--
-- `PREFIX:run:{DIGEST}` is a hash like a lock. It names the run by `holder` and `delivery`. `told`, `grace`, `late` and `hears` are as in a
-- lock. `retried` is
-- there once the run has ended in a retry: the id keeps the lock, and no worker is named. `try` is there if the message of the run
-- says of itself that it is another retry than `retries`. `copied` is there once a second copy has asked.
-- `PREFIX:wait:{DIGEST}` are the ids that wait by their places, `PREFIX:seen:{DIGEST}` when each was seen last.
-- `PREFIX:waited:{DIGEST}` is there for as long as it is known that somebody waited; its value is when the lock may be given again, after
-- the store had forgotten that, and so who runs.
-- `PREFIX:done:{DIGEST}:ID` is what ended runs leave behind: `over`, their deliveries, each with a blank before and behind, or `*`; and of one
-- that succeeded while a copy of it was about: `at`, `retries`, and `to`, the copy that was told.

function make.run()

local WAITERS_KEPT, UNSEEN, WAIT_KEPT, PASSED_OVER, DONE_KEPT, OVER_WORDS = 100000, 5000, 60000, 1000, 3600000, 16
local FORGOTTEN = 5000
-- The place of a run that goes on and has lost its lock to another id: before all that wait.
local LOST_PLACE = 0
-- A run is renewed at a third of its life, or after so long.
local RENEWED = 30000

local function run_of(digest) return prefix .. ':run:{' .. digest .. '}' end
local function wait_of(digest) return prefix .. ':wait:{' .. digest .. '}' end
local function seen_of(digest) return prefix .. ':seen:{' .. digest .. '}' end
local function waited_of(digest) return prefix .. ':waited:{' .. digest .. '}' end
local function done_of(digest, id) return prefix .. ':done:{' .. digest .. '}:' .. id end

-- Whether the record lists the key as one that its id runs: where its entry begins and ends.
function runs.find(record, digest) return string.find(record, '\n%+' .. digest .. ' [^\n]*') end

-- The key that the id runs by this rule, if any.
function runs.of_rule(record, rule)
  for digest, name in string.gmatch(record, '\n%+(%x+) %S+ ([^\n]*)') do
    if name == rule then return digest end
  end
end

local function note_run(idkey, entry, life)
  local record = call('GET', idkey) or ''
  if runs.find(record, string.sub(entry, 3, 66)) then return live_at_least(idkey, life) end
  call('SET', idkey, record .. entry, 'PX', int(math.max(life, call('PTTL', idkey))))
end

local function forget_run(idkey, digest)
  local record = call('GET', idkey)
  local from, to = runs.find(record or '', digest)
  if not from then return end
  record = string.sub(record, 1, from - 1) .. string.sub(record, to + 1)
  if record == '' then
    call('DEL', idkey)
  else
    call('SET', idkey, record, 'KEEPTTL')
  end
end

local function is_over(digest, id, delivery)
  local over = call('HGET', done_of(digest, id), 'over') or ''
  return (string.find(over, ' ' .. delivery .. ' ', 1, true) or string.find(over, ' * ', 1, true)) ~= nil
end

-- No renewal brings the run of this delivery back; of any, if it is `*`.
local function note_over(digest, id, delivery, kept)
  local key = done_of(digest, id)
  local over = call('HGET', key, 'over') or ' '
  if not string.find(over, ' ' .. delivery .. ' ', 1, true) then
    over = over .. delivery .. ' '
    local _, count = string.gsub(over, '%S+', '')
    if count > OVER_WORDS then over = string.gsub(over, '^ %S+', '', 1) end
    call('HSET', key, 'over', over)
  end
  live_at_least(key, kept)
end

-- Whether this is a copy of a run that has succeeded while a copy was about. One that waited then has a place from before; of those without
-- a place, since they come back from elsewhere, the first is meant.
local function is_copy_of_success(digest, id, delivery, retries, place)
  local key = done_of(digest, id)
  local d = call('HMGET', key, 'at', 'retries', 'to')
  if not d[1] or retries > tonumber(d[2]) then return false end
  if not (place and place <= tonumber(d[1]) or d[3] == delivery or not (place or d[3])) then return false end
  if not d[3] then call('HSET', key, 'to', delivery) end
  return true
end

local function leave_wait(digest, id)
  call('ZREM', wait_of(digest), id)
  call('HDEL', seen_of(digest), id)
end

-- Who waits before this place, and how long it may still keep silent. Who was not seen lately is passed over and forgotten.
local function ahead(digest, id, place)
  for _ = 1, PASSED_OVER do
    local first = call('ZRANGE', wait_of(digest), 0, 0, 'WITHSCORES')
    if not first[1] or first[1] == id then return nil end
    local before = tonumber(first[2])
    local left = (tonumber(call('HGET', seen_of(digest), first[1])) or 0) + UNSEEN - now
    if left > 0 then
      if before < place or (before == place and first[1] < id) then return first[1], left end
      return nil
    end
    leave_wait(digest, first[1])
  end
end

local function place_of(digest, id, named)
  return math.min(named or now, tonumber(call('ZSCORE', wait_of(digest), id) or now))
end

-- Notes that it waits, and is heard of again within this time, if one is given; gives its place.
local function note_wait(digest, id, named, again)
  local wait, seen, place = wait_of(digest), seen_of(digest), place_of(digest, id, named)
  if call('HEXISTS', seen, id) == 1 or call('ZCARD', wait) < WAITERS_KEPT then
    call('ZADD', wait, int(place), id)
    call('HSET', seen, id, int(now + (again or 0)))
    call('PEXPIRE', wait, WAIT_KEPT)
    call('PEXPIRE', seen, WAIT_KEPT)
    if call('PEXPIRE', waited_of(digest), WAIT_KEPT) == 0 then call('SET', waited_of(digest), 0, 'PX', WAIT_KEPT) end
  end
  return place
end

local function waits(digest, id, named, holder, left) return { holder, note_wait(digest, id, named), left } end

-- Whether nobody gets the lock now, since that one waits for it was not known.
local function is_forgotten(digest, named)
  local given = call('GET', waited_of(digest))
  if given then return tonumber(given) > now end
  if named then call('SET', waited_of(digest), int(now + FORGOTTEN), 'PX', WAIT_KEPT) end
  return named ~= nil
end

local function take_run(digest, idkey, id, delivery, worker, retries, life, entry, blob)
  local run = run_of(digest)
  call('DEL', run)
  call('HSET', run, 'holder', id, 'delivery', delivery, 'state', 'queued', 'since', now_text, 'expires', int(now + life),
    'retries', int(retries), 'worker', worker, unpack(cmsgpack.unpack(blob)))
  call('PEXPIRE', run, int(life))
  note_run(idkey, entry, life)
  leave_wait(digest, id)
end

-- The publish lock of the id and these fields of it, the first its holder: that of the key, or the one that was set aside.
local function own_lock(digest, id, ...)
  local lock, names = lock_of(digest), { ... }
  names[#names + 1] = 'aside'
  local l = call('HMGET', lock, unpack(names))
  local key = l[#names] and l[1] ~= id and hands.key_of(lock, id)
  if not key then return lock, l end
  return key, call('HMGET', key, unpack(names))
end

-- The publish lock of an id that is not to run goes, and does not come back with a late commit.
local function leave(digest, idkey, id, delivery)
  leave_wait(digest, id)
  local lock, l = own_lock(digest, id, 'holder', 'state', 'scope', 'publishes', 'rule', 'task', 'since', 'shadow', 'marks', 'vhost')
  if l[1] ~= id then
    note_ended(id, 'r', '', UNJUDGED, UNKNOWN_KEPT)
    return nil
  end
  if l[2] == 'cooldown' or l[3] == 'until_expired' then return nil end
  local list = parse(l[4])
  settle(list, delivery)
  if not l[11] or not hands.gives_back(lock) then call('DEL', lock) end
  forget_id(idkey, digest)
  note_ended(id, 'r', '', settled(list), ENDED_KEPT)
  return not is_marked(l[9], 't') and freed(digest, 'ended', id, l[5], l[6], l[7], l[8], l[10]) or nil
end

-- The run has its full life again. `expires` is what is known of its end.
local function lives(run, idkey, expires, life, ...)
  call('HSET', run, 'expires', int(math.max(now + life, tonumber(expires) or 0)), ...)
  call('PEXPIRE', run, int(math.max(life, (tonumber(expires) or now) - now)))
  live_at_least(idkey, life)
end

-- It has ended in a retry: the id keeps the lock until its next run.
local function retry_run(run, idkey, expires, life)
  call('HDEL', run, 'told')
  lives(run, idkey, expires, life, 'state', 'queued', 'worker', '', 'retried', '1')
end

-- Run: id, delivery, w (wait), l (leave) or j (leave, and wait for the holder's result), place or nothing, worker, retries, life, entry, blob.
-- 0: it runs; 1: its run has succeeded before; 2: it is not to run; holder, place, how long: it waits; nothing, place: it waits, since the store
-- has forgotten; holder, what was freed: it leaves.
function ops.G(lock, idkey, a)
  local digest, id, delivery, worker = digest_of(lock), ARGV[a], ARGV[a + 1], ARGV[a + 4]
  local named, retries, life = tonumber(ARGV[a + 3]), tonumber(ARGV[a + 5]), tonumber(ARGV[a + 6])
  local entry, blob, run = ARGV[a + 7], ARGV[a + 8], run_of(digest)
  local r = call('HMGET', run, 'holder', 'delivery', 'expires', 'told', 'retried', 'retries', 'copied')
  local left = math.max(0, (tonumber(r[3]) or now) - now)
  local function leaves_for(other)
    local reply = string.match(ARGV[a + 2], '^j(.*)$')
    if reply then joins.add(digest, other, id, string.sub(entry, 67), life, reply) end
    return { other, leave(digest, idkey, id, delivery) }
  end
  if r[1] == id and r[2] == delivery then
    if not r[4] and not r[5] then
      if worker ~= '' then call('HSET', run, 'worker', worker) end
      prolong(run, r[3], life)
      note_run(idkey, entry, life)
    end
    leave_wait(digest, id)
    return 0
  end
  if is_copy_of_success(digest, id, delivery, retries, named) then
    leave_wait(digest, id)
    return 1
  end
  -- It was admitted before, and has waited since.
  if is_dead(digest, id) then
    leave_wait(digest, id)
    return 2
  end
  if r[1] == id then
    local former = tonumber(r[6])
    if not r[5] and retries <= former then
      call('HSET', run, 'copied', '1')
      return waits(digest, id, named, id, left)
    end
    note_over(digest, id, r[2], ENDED_KEPT)
    -- A redelivery of what was retried is not to be taken for the retry, which then would take the lock from it.
    local try = retries
    if r[5] then retries = math.max(retries, former + 1) end
    take_run(digest, idkey, id, delivery, worker, retries, life, entry, blob)
    if try ~= retries then call('HSET', run, 'try', int(try)) end
    if r[7] then call('HSET', run, 'copied', '1') end
    return 0
  end
  if r[1] then
    if ARGV[a + 2] == 'w' then return waits(digest, id, named, r[1], left) end
    return leaves_for(r[1])
  end
  if is_forgotten(digest, named) then return { false, note_wait(digest, id, named) } end
  local leaves = ARGV[a + 2] ~= 'w'
  local first, silence = ahead(digest, id, leaves and LOST_PLACE + 1 or place_of(digest, id, named))
  if first and leaves then return leaves_for(first) end
  if first then return waits(digest, id, named, first, silence) end
  -- A question that comes behind its own end does not lock for long.
  if is_over(digest, id, delivery) then life = math.min(life, ENDED_KEPT) end
  take_run(digest, idkey, id, delivery, worker, retries, life, entry, blob)
  return 0
end

-- Renewal of a run: id, delivery, worker, retries, life, entry, blob, ends. 0: it has its full life; 1: taken again; 2: there is nothing to renew;
-- 4: another id has it.
function ops.K(lock, idkey, a)
  local digest, id, delivery, worker = digest_of(lock), ARGV[a], ARGV[a + 1], ARGV[a + 2]
  local life, entry, run = tonumber(ARGV[a + 4]), ARGV[a + 5], run_of(digest)
  local r = call('HMGET', run, 'holder', 'delivery', 'expires', 'told', 'retried', 'late')
  if r[1] == id then
    -- What is unsettled where the ack ends a run goes on: it may have been an earlier one that was retried.
    if r[2] ~= delivery or r[4] or r[5] and not r[6] then return 2 end
    if worker ~= '' and not r[5] then call('HSET', run, 'worker', worker) end
    prolong(run, r[3], life)
    note_run(idkey, entry, life)
    return 0
  end
  if is_over(digest, id, delivery) then
    -- Who has not heard of the end by now renews again.
    live_at_least(done_of(digest, id), life)
    return 2
  end
  if heard(id, nil, ARGV[a + 7]) then return 2 end
  if r[1] then
    -- It may be of one that has ended, whose proxy did not hear of it and brought it back when the store had forgotten all.
    note_wait(digest, id, LOST_PLACE, math.min(life / 3, RENEWED))
    note_run(idkey, entry, life)
    return 4
  end
  take_run(digest, idkey, id, delivery, worker, tonumber(ARGV[a + 3]), life, entry, ARGV[a + 6])
  call('SET', waited_of(digest), 0, 'XX', 'KEEPTTL')
  return 1
end

-- What limits ask, of runs that are theirs alone: see `limit.lua`.
function runs.is_there(digest) return call('EXISTS', run_of(digest)) == 1 end
runs.take = take_run

-- A run goes that this delivery has, and that has not begun to be retried. True if it has gone.
function runs.leave(digest, id, delivery)
  local r = call('HMGET', run_of(digest), 'holder', 'delivery', 'retried')
  if r[1] ~= id or r[2] ~= delivery or r[3] then return false end
  call('DEL', run_of(digest))
  forget_run(id_of(id), digest)
  return true
end

-- The id was published as a retry: id, which retry it is. A run of an earlier try ends in it.
function ops.E(lock, idkey, a)
  local run, id = run_of(digest_of(lock)), ARGV[a]
  local r = call('HMGET', run, 'holder', 'expires', 'life', 'retried', 'retries', 'try')
  if r[1] ~= id or r[4] or tonumber(ARGV[a + 1]) <= tonumber(r[6] or r[5]) then return 0 end
  retry_run(run, idkey, r[2], tonumber(r[3]) or 1)
  return 0
end

-- A run is given back, or does not wait any more: id, delivery.
function ops.L(lock, idkey, a)
  local digest, id, delivery = digest_of(lock), ARGV[a], ARGV[a + 1]
  leave_wait(digest, id)
  local r = call('HMGET', run_of(digest), 'holder', 'delivery', 'retried', 'told', 'rule', 'task', 'since', 'vhost')
  if r[1] ~= id or r[2] ~= delivery or r[3] then return {} end
  note_over(digest, id, delivery, ENDED_KEPT)
  call('DEL', run_of(digest))
  forget_run(idkey, digest)
  if r[4] then return {} end
  return { freed(digest, 'ended', id, r[5], r[6], r[7], nil, r[8]) }
end

-- Show a run.
function ops.V(lock)
  return call('HMGET', run_of(digest_of(lock)), 'holder', 'state', 'rule', 'task', 'summary', 'worker', 'proxy', 'vhost', 'queue', 'since',
    'expires', 'scope', 'shadow', 'publishes', 'carried')
end

-- Release by an operator: whether a holder is named, its id, whether the lock of one that runs goes too.
function ops.D(lock, _, a)
  local out, digest = release_lock(lock, a), digest_of(lock)
  if ARGV[a + 2] ~= '1' then return out end
  local run = run_of(digest)
  local r = call('HMGET', run, 'holder', 'delivery', 'told', 'rule', 'task', 'since', 'vhost')
  if not r[1] or (ARGV[a] == '1' and r[1] ~= ARGV[a + 1]) then return out end
  -- Its worker may go on: no renewal is to bring back what was freed.
  note_over(digest, r[1], r[2], math.max(ENDED_KEPT, call('PTTL', run)))
  call('DEL', run)
  forget_run(id_of(r[1]), digest)
  if not r[3] then out[#out + 1] = freed(digest, 'admin', r[1], r[4], r[5], r[6], nil, r[7]) end
  return out
end

-- Whether the id has published again under the key: of what its publish lock counts, one is this run until its start is known, or for as
-- long as this delivery stands for it.
local function publishes_again(digest, id, state, delivery)
  local _, l = own_lock(digest, id, 'holder', 'state', 'scope', 'publishes')
  if l[1] ~= id or l[2] == 'cooldown' or l[3] == 'until_expired' then return false end
  local list = parse(l[4])
  local counted = find(list, delivery)
  local own = counted and counted[2] ~= '-' or state ~= 'running'
  return in_flight(list) > (own and 1 or 0)
end

-- Those that end a run, and why it then goes.
local ENDS = { r = 'ended', k = 'success', f = 'failure', v = 'revoked', x = 'expired', c = 'crash', o = 'crash' }

-- What a signal does to one running lock: whether the record still lists it, what is told if the lock goes, and when it goes if that is soon.
local function signal_run(digest, idkey, id, settlement, signal, worker, source)
  local run = run_of(digest)
  local r = call('HMGET', run, 'holder', 'delivery', 'worker', 'state', 'grace', 'life', 'expires', 'retried', 'told', 'rule', 'task',
    'since', 'retries', 'copied', 'late', 'hears', 'vhost', 'try')
  if r[1] ~= id then
    if not ENDS[signal] then return true end
    -- A run that had lost its lock waits no longer; a copy that waits keeps its place, which it names.
    leave_wait(digest, id)
    if signal == 'o' then return true end
    note_over(digest, id, signal == 'r' and settlement or '*', ENDED_KEPT)
    return false
  end
  -- A revoke that is asked for: a worker that has not begun it will not.
  if signal == 'p' or signal == 'q' and r[4] == 'running' then return true end
  local delivery, runs_on, life, reason = r[2], r[3] or '', tonumber(r[6]) or 1, signal == 'q' and 'revoked' or ENDS[signal]
  if SETTLING[signal] then
    if settlement ~= delivery then return true end
  elseif signal ~= 'q' and worker ~= '' and runs_on ~= '' and worker ~= runs_on then
    return true
  elseif signal == 'o' and (worker == '' or worker ~= runs_on or settlement ~= '0' and settlement ~= delivery) then
    return true
  end
  if LISTENED[signal] and r[16] and not string.find(r[16], source, 1, true) then
    if not (signal == 'a' and not r[15] or signal == 'd' or signal == 's') then return true end
    -- From a source that does not count, a start shows nevertheless that the worker has begun.
    signal = 's'
  end
  local function retried()
    retry_run(run, idkey, r[7], life)
    return true
  end

  if reason then
    call('DEL', run)
    -- A worker that is given up may still have its message, which is renewed.
    note_over(digest, id, delivery, reason == 'crash' and math.max(ENDED_KEPT, life) or ENDED_KEPT)
    if signal == 'k' and r[14] then
      local key = done_of(digest, id)
      call('HSET', key, 'at', now_text, 'retries', r[13])
      call('HDEL', key, 'to')
      live_at_least(key, DONE_KEPT)
    end
    return false, not r[9] and freed(digest, reason, id, r[10], r[11], r[12], nil, r[17]) or nil
  end
  if r[8] then return true end
  if signal == 't' then
    -- It may be told late of an earlier one; this one's is known by its number when it is published. A retry that says of itself that it is
    -- none (some rate limits of libraries are such) has no number to be known by.
    return (tonumber(r[18] or r[13]) or 0) > 0 or retried()
  end
  -- Per run, started never follows ended.
  if r[9] then return true end
  if signal == 'l' or signal == 'a' and r[15] then
    if publishes_again(digest, id, r[4], delivery) then return retried() end
    local grace = math.min(tonumber(r[5]) or 0, math.max(0, (tonumber(r[7]) or now) - now))
    note_over(digest, id, delivery, ENDED_KEPT)
    call('HSET', run, 'expires', int(now + grace), 'told', '1')
    call('PEXPIRE', run, int(grace))
    return true, freed(digest, 'ended', id, r[10], r[11], r[12], nil, r[17]), grace
  end
  lives(run, idkey, r[7], life, 'state', 'running', 'worker', runs_on == '' and worker or runs_on)
  return true
end

-- What a signal does to all running locks of an id: which entries the record keeps, how many there were, when the last goes if that is soon.
-- What is told goes to `out`.
function runs.signal(record, idkey, id, settlement, signal, worker, source, out)
  local kept, entries, shortest = {}, 0, nil
  for entry, digest in string.gmatch(record, '(\n%+(%x+)[^\n]*)') do
    local runs, told, grace = signal_run(digest, idkey, id, settlement, signal, worker, source)
    entries = entries + 1
    if runs then kept[#kept + 1] = entry end
    if told then out[#out + 1] = told end
    shortest = grace
  end
  return kept, entries, shortest
end

arguments.G, arguments.K, arguments.E, arguments.L, arguments.V = 9, 8, 2, 2, 0

end

