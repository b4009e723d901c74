
-- Limits, for Redis; the same rules as in `memory/limit.rs`.
--
-- A bucket is named by the first half of its digest. `PREFIX:times:{RULE}:BUCKET` is a list of the last hand-overs, `PREFIX:tat:{RULE}:BUCKET`
-- the time from which on the next one is spaced, and by which space that was reckoned. `PREFIX:queue:{RULE}:BUCKET` are the places of those that wait, by the times that they are
-- planned for; a place is a number of 15 digits. `PREFIX:member:{RULE}:BUCKET` are the keys of the runs that count, `PREFIX:front:{RULE}:BUCKET`
-- is who waits first for the end of one, by place, and when that one asked last.
-- `PREFIX:slot:{RULE}:ID` is a hash: the `place` of an id, `since` when it waits, and the time that was `planned` for it; once a delivery of
-- it was permitted, that one (`by`) and when (`at`); as what it stands in `due` (`asks`).
-- `PREFIX:set:{RULE}` is what operators have set, see `limits.lua`.
-- `PREFIX:due:{RULE}` are all that wait, each its place and its buckets, by the times when they are to ask again; `PREFIX:place:{RULE}` is the
-- last place that was given.

function make.limit()

local AHEAD, UNSEEN, SLOT_KEPT, GIVEN_KEPT, PASSED_OVER, LATE, FRONT_UNSEEN = 5000, 5000, 86400000, 60000, 50, 50, 700
local PAUSED_FIRST, PAUSED_LONGEST, PAUSED_APART, ENDLESS = 1000, 30000, 20, 9007199254740991
local POLL_FIRST, POLL_NEAR, POLL_FAR, NEAR, LOOKED_AT = 100, 250, 1000, 8, 64

local tag
local function key_of(kind, bucket) return prefix .. ':' .. kind .. ':' .. tag .. ':' .. bucket end

-- The buckets of a question: name, times, per, burst, concurrent, run, the limit, and its key's digest; nothing for what there is not.
local function read_buckets(packed)
  local list, flat = {}, cmsgpack.unpack(packed)
  for at = 1, #flat, 8 do
    local b = {
      name = flat[at], times = tonumber(flat[at + 1]), per = tonumber(flat[at + 2]), burst = tonumber(flat[at + 3]),
      concurrent = tonumber(flat[at + 4]), run = flat[at + 5], limit = flat[at + 6], key = flat[at + 7],
    }
    b.queue = key_of('queue', b.name)
    b.kept, b.kept_per = b.times, b.per
    list[#list + 1] = b
  end
  return list
end

-- What is set for one value of the key of a limit, or else for the limit, and holds: its numbers, see `limits.lua`.
local function set_for(of_key, of_limit)
  for _, value in ipairs({ of_key or '', of_limit or '' }) do
    local ends, first, second = string.match(value, '^(%d+) %d+ (%d+) ?(%d*)')
    ends = tonumber(ends)
    if ends == 0 then return ENDLESS, tonumber(first), tonumber(second) end
    if ends and ends > now then return ends, tonumber(first), tonumber(second) end
  end
end

-- What was let go ahead of an even pace by another rate counts as so many of this one, a burst at most.
local function read_tat(b)
  local key = key_of('tat', b.name)
  local tat, spacing = string.match(call('GET', key) or '', '^(%S+) ?(%S*)$')
  tat, spacing = tonumber(tat), tonumber(spacing)
  if tat and tat > now and spacing and spacing > 0 and spacing ~= b.spacing then
    tat = now + math.min((tat - now) / spacing, b.burst) * b.spacing
    call('SET', key, string.format('%.17g %.17g', tat, b.spacing), 'PX', int(math.max(tat - now, 0) + b.kept_per + 1000))
  end
  return tat
end

-- What holds for each bucket now. Those hand-overs are remembered that the configuration is about, too: its windows are kept all along.
local function rule_on(buckets)
  local fields = {}
  for _, b in ipairs(buckets) do
    local whole_pause, whole_rate = 'p:' .. b.limit, 'r:' .. b.limit
    local of_key = b.key ~= '' and ':' .. b.key or ':'
    for _, field in ipairs({ whole_pause .. of_key, whole_pause, whole_rate .. of_key, whole_rate }) do fields[#fields + 1] = field end
  end
  local set = call('HMGET', prefix .. ':set:' .. tag, unpack(fields))
  for i, b in ipairs(buckets) do
    local at = 4 * i - 3
    local ends, paused = set_for(set[at], set[at + 1])
    if paused == 1 then b.paused = ends end
    local _, times, per = set_for(set[at + 2], set[at + 3])
    if times then
      b.burst = b.times and b.burst < b.times and math.min(b.burst, times) or times
      b.kept, b.kept_per = math.max(b.kept or 0, times), math.max(b.kept_per or 0, per)
      b.times, b.per = times, per
    end
    if b.times then b.spacing = b.per / b.times end
  end
end

-- Who was to ask long ago and has not is passed over: it has its place again when it asks.
local function pass_over(due)
  for _, member in ipairs(call('ZRANGEBYSCORE', due, '-inf', int(now - UNSEEN), 'LIMIT', 0, PASSED_OVER)) do
    local place = string.sub(member, 1, 15)
    for bucket in string.gmatch(string.sub(member, 16), '%x+') do call('ZREM', key_of('queue', bucket), place) end
    call('ZREM', due, member)
  end
end

-- Reads what the rate of a bucket depends on. What was planned and comes late is not spaced from its coming.
local function open(b)
  if not b.times then return end
  b.list = key_of('times', b.name)
  b.given = call('LLEN', b.list)
  b.tat = read_tat(b) or 0
  b.late = math.max(LATE, b.spacing / 2)
  local first = call('ZRANGE', b.queue, 0, 0, 'WITHSCORES')
  b.from = math.max(now - b.late, math.min(now, tonumber(first[2]) or now))
end

-- When the nth hand-over from now on may be, at the earliest.
local function time_of(b, nth)
  if not b.times then return now end
  local rounds = math.floor((nth - 1) / b.times)
  local before = b.given + nth - rounds * b.times - b.times
  local at = now
  if before >= 1 then at = math.max(at, tonumber(call('LINDEX', b.list, int(before - 1))) + b.per + 1) end
  return math.max(at + rounds * (b.per + 1), math.max(b.tat, b.from) + (nth - b.burst) * b.spacing)
end

-- When a newcomer may be handed over beside all that are planned.
local function plan(b, alone)
  local waiting = call('ZCARD', b.queue)
  if alone then
    local last = call('ZRANGE', b.queue, -1, -1, 'WITHSCORES')
    return math.max(time_of(b, waiting + 1), tonumber(last[2]) or 0)
  end
  -- Others are planned for later than this bucket asks for, and leave room before them.
  local low, high = 0, waiting
  while low < high do
    local ahead = math.floor((low + high) / 2)
    local at = time_of(b, ahead + 1)
    if call('ZCOUNT', b.queue, '-inf', int(math.ceil(at))) <= ahead then high = ahead else low = ahead + 1 end
  end
  return time_of(b, low + 1)
end

-- How many of a bucket run. Some of those that have ended are found each time.
local function running(b)
  local members = key_of('member', b.name)
  local count = call('ZCARD', members)
  if count < b.concurrent then return count end
  local first = count > LOOKED_AT and now % count or 0
  for _, run in ipairs(call('ZRANGE', members, int(first), int(first + LOOKED_AT - 1))) do
    if not runs.is_there(run) then
      call('ZREM', members, run)
      count = count - 1
    end
  end
  return count
end

-- How long until it is to ask again since too many run; nothing if one more may.
local function too_many(b, place, rank)
  if not b.concurrent or call('ZSCORE', key_of('member', b.name), b.run) and runs.is_there(b.run) then return nil end
  local room, key = b.concurrent - running(b), key_of('front', b.name)
  local front = call('HMGET', key, 'place', 'seen')
  local first = front[1] and tonumber(front[2]) + FRONT_UNSEEN > now and front[1] or nil
  if room > 1 or room == 1 and not (first and first < place) then return nil end
  if not first or place <= first then
    call('HSET', key, 'place', place, 'seen', now_text)
    call('PEXPIRE', key, GIVEN_KEPT)
    return POLL_FIRST
  end
  return rank < NEAR and POLL_NEAR or POLL_FAR
end

-- When it may be handed over, as far as its bucket is concerned, and when it is to ask again.
local function judge(b, place, until_ms, waited)
  local rank = call('ZRANK', b.queue, place)
  local ahead = math.min(rank, call('ZCOUNT', b.queue, '-inf', until_ms))
  b.free = time_of(b, ahead + 1)
  b.at = rank == ahead and b.free or time_of(b, rank + 1)
  if b.paused then
    -- The first looks again, and the others at a pace that costs no more than if it were not paused: when it is over, each asks when its turn
    -- comes.
    local look = math.min(now + math.max(PAUSED_FIRST, math.min(math.floor(waited / 2), PAUSED_LONGEST)), b.paused)
    local behind = b.times and math.max(rank + 1 - b.burst, 0) * b.spacing or rank * PAUSED_APART
    b.free, b.at = math.max(b.free, look), math.max(b.at, look + behind)
    return
  end
  local poll = b.asks and b.free <= now and too_many(b, place, rank)
  if poll then b.free, b.at, b.runs = now + poll, math.max(b.at, now + poll), true end
end

local function member_of(buckets, place)
  local words = { place }
  for _, b in ipairs(buckets) do words[#words + 1] = b.name end
  return table.concat(words, ' ')
end

-- It is asked about other buckets than before: a retry need not count for all. It waits in none but these.
local function waits_no_more(due, member, buckets)
  local asked = {}
  for _, b in ipairs(buckets) do asked[b.name] = true end
  local place = string.sub(member, 1, 15)
  for bucket in string.gmatch(string.sub(member, 16), '%x+') do
    if not asked[bucket] then call('ZREM', key_of('queue', bucket), place) end
  end
  call('ZREM', due, member)
end

-- Takes a permission back.
local function undo(slot, buckets, id, by, at)
  for _, b in ipairs(buckets) do
    if b.times then
      call('LREM', key_of('times', b.name), -1, at)
      local tat = read_tat(b)
      if tat then call('SET', key_of('tat', b.name), string.format('%.17g %.17g', tat - b.spacing, b.spacing), 'KEEPTTL') end
    end
    if b.concurrent and runs.leave(b.run, id, by) then call('ZREM', key_of('member', b.name), b.run) end
  end
  call('HDEL', slot, 'by', 'at')
  call('PEXPIRE', slot, SLOT_KEPT)
end

local function permit(slot, due, buckets, id, place, since, a)
  local delivery, worker, retries, life, tail, blob = ARGV[a], ARGV[a + 2], ARGV[a + 3], tonumber(ARGV[a + 4]), ARGV[a + 5], ARGV[a + 6]
  local at = now
  for _, b in ipairs(buckets) do
    if b.times then at = math.max(at, tonumber(call('LINDEX', b.list, -1) or 0)) end
  end
  for _, b in ipairs(buckets) do
    if b.times then
      call('RPUSH', b.list, int(at))
      if b.given + 1 > b.kept then call('LTRIM', b.list, int(-b.kept), -1) end
      live_at_least(b.list, b.kept_per + 1000)
      local planned = tonumber(call('ZSCORE', b.queue, place)) or now
      local tat = math.max(b.tat, now - b.late, math.min(now, planned)) + b.spacing
      call('SET', key_of('tat', b.name), string.format('%.17g %.17g', tat, b.spacing), 'PX',
        int(math.max(tat - now, 0) + b.kept_per + 1000))
    end
    if b.concurrent then
      local members = key_of('member', b.name)
      call('ZADD', members, int(now + life), b.run)
      live_at_least(members, life)
      runs.take(b.run, id_of(id), id, delivery, worker, tonumber(retries), life, '\n+' .. b.run .. tail, blob)
      local front = key_of('front', b.name)
      if call('HGET', front, 'place') == place then call('DEL', front) end
    end
    call('ZREM', b.queue, place)
  end
  call('ZREM', due, member_of(buckets, place))
  call('HSET', slot, 'by', delivery, 'at', int(at))
  call('PEXPIRE', slot, GIVEN_KEPT)
  return math.max(0, now - since)
end

-- Those that this one need not let go first where another bucket holds it up are told so by its planned time there.
local function hold_up(buckets, place)
  for i, b in ipairs(buckets) do
    local other = now
    for j, o in ipairs(buckets) do
      if j ~= i and o.free > now then other = math.max(other, o.at) end
    end
    other = math.ceil(other)
    if other > now and other > tonumber(call('ZSCORE', b.queue, place)) then call('ZADD', b.queue, int(other), place) end
  end
end

-- Gives an id its place, unless it has one: place, since when, what was planned unless it is new, and as what it stood in `due`.
local function find_place(slot, buckets, id, delivery)
  local s = call('HMGET', slot, 'place', 'since', 'planned', 'by', 'at', 'asks')
  if s[4] and s[4] == delivery then
    -- The answer was lost: what counts is the hand-over that is to come.
    undo(slot, buckets, id, s[4], s[5])
  elseif s[4] then
    s = {}
    call('HDEL', slot, 'by', 'at')
  end
  if s[1] then return s[1], tonumber(s[2]), tonumber(s[3]), s[6] end
  local key = prefix .. ':place:' .. tag
  local place = string.format('%015d', call('INCR', key))
  live_at_least(key, SLOT_KEPT)
  return place, now, nil
end

local function ask(slot, due, a, delivery)
  tag = string.sub(due, #prefix + 6)
  local id, buckets = string.sub(slot, #prefix + #tag + 8), read_buckets(ARGV[a + 1])
  pass_over(due)
  rule_on(buckets)
  local place, since, planned, asked = find_place(slot, buckets, id, delivery)
  local member = member_of(buckets, place)
  if asked and asked ~= member then waits_no_more(due, asked, buckets) end
  for _, b in ipairs(buckets) do
    b.asks = delivery
    open(b)
  end
  if not planned then
    planned = now
    for _, b in ipairs(buckets) do planned = math.max(planned, math.ceil(plan(b, #buckets == 1))) end
    call('HSET', slot, 'place', place, 'since', int(since), 'planned', int(planned), 'asks', member)
  elseif asked ~= member then
    call('HSET', slot, 'asks', member)
  end
  for _, b in ipairs(buckets) do
    call('ZADD', b.queue, 'NX', int(planned), place)
    if b.times then b.from = math.max(now - b.late, math.min(b.from, planned)) end
  end
  -- Where another bucket may hold up who is planned before it, that one is not waited for.
  local before = int(#buckets == 1 and now + AHEAD or now)
  local free, at, last, cause = now, now, 1, 0
  for i, b in ipairs(buckets) do
    judge(b, place, before, now - since)
    free = math.max(free, b.free)
    if b.at > at then at, last, cause = b.at, i, b.runs and 1 or 0 end
  end
  if delivery and free <= now then return permit(slot, due, buckets, id, place, since, a) end
  if #buckets > 1 then hold_up(buckets, place) end
  local wait = free <= now and 0 or math.max(1, math.ceil(at - now))
  call('ZADD', due, int(now + wait), member)
  local kept = wait + SLOT_KEPT
  for _, b in ipairs(buckets) do live_at_least(b.queue, kept) end
  live_at_least(due, kept)
  live_at_least(prefix .. ':place:' .. tag, kept)
  call('PEXPIRE', slot, int(kept))
  return { wait, now - since, last - 1, cause }
end

-- Reserve: nothing, buckets. What it waits for: how long, for how long it has waited, which bucket from 0, whether for runs.
function ops.Z(slot, due, a) return ask(slot, due, a, nil) end

-- Permit: delivery, buckets, worker, retries, life, the rest of the entry of a run, fields of a run. For how long it has waited: it is handed
-- over; else as to a reserve.
function ops.X(slot, due, a) return ask(slot, due, a, ARGV[a]) end

-- A delivery is not handed over, or does not wait any more: delivery, buckets.
function ops.Y(slot, due, a)
  tag = string.sub(due, #prefix + 6)
  local buckets, s = read_buckets(ARGV[a + 1]), call('HMGET', slot, 'place', 'by', 'at', 'asks')
  if not s[1] then return 0 end
  if s[2] and s[2] ~= ARGV[a] then return 0 end
  if s[2] then rule_on(buckets) end
  if s[2] then undo(slot, buckets, string.sub(slot, #prefix + #tag + 8), s[2], s[3]) end
  for _, b in ipairs(buckets) do call('ZREM', b.queue, s[1]) end
  if s[4] then waits_no_more(due, s[4], {}) end
  return 0
end

end

arguments.X, arguments.Y, arguments.Z = 7, 2, 2
