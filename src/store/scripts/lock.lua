-- The rules of the locks, for Redis: many questions in one call, each answered by itself. The same rules as in `memory.rs`.
--
-- KEYS: two per question, the lock and the id record; a question about an id alone has its record twice.
-- ARGV: the prefix of all keys, then per question its letter and its arguments (see `wire.rs`).
-- A lock is a hash; its field `publishes` lists the holder's publishes by nonce: `N` is forwarded, `N+` the broker has, `N-BY` is settled or
-- withdrawn by the request BY. The field `grace` is there only if the ack ends the task: the settle grace.
-- An id record is a string of entries, one per key that the id has claimed: a line feed, the digest, the scope, the rule.
-- `PREFIX:ended:ID` is what workers' signals leave behind for the commits that come after them: words that each begin and end with a
-- blank, of the letter of a signal and a publish that it ended, or `*` for any.

local ARGV, KEYS, call = ARGV, KEYS, redis.call
local prefix = ARGV[1]
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ENDED_KEPT, UNKNOWN_KEPT, PUBLISHES_KEPT, ENDED_WORDS = 60000, 10000, 16, 64

-- Redis writes a Lua number as a floating point number, which is slow.
local function int(number) return string.format('%d', number) end
local now_text = int(now)

local function digest_of(lock) return string.sub(lock, -65, -2) end
local function lock_of(digest) return prefix .. ':lock:{' .. digest .. '}' end
local function id_of(id) return prefix .. ':id:' .. id end
local function ended_of(id) return prefix .. ':ended:' .. id end

local function parse(publishes)
  local list = {}
  for nonce, mark, by in string.gmatch(publishes or '', '(%x+)([+-]?)(%x*)') do
    list[#list + 1] = { nonce, mark, by }
  end
  return list
end

local function format(list)
  local words = {}
  for i, p in ipairs(list) do words[i] = p[1] .. p[2] .. p[3] end
  return table.concat(words, ' ')
end

local function in_flight(list)
  local n = 0
  for _, p in ipairs(list) do
    if p[2] ~= '-' then n = n + 1 end
  end
  return n
end

local function find(list, nonce)
  for _, p in ipairs(list) do
    if p[1] == nonce then return p end
  end
end

local function push(list, nonce, mark)
  if #list >= PUBLISHES_KEPT then
    local oldest = 1
    for i, p in ipairs(list) do
      if p[2] == '-' then oldest = i break end
    end
    table.remove(list, oldest)
  end
  list[#list + 1] = { nonce, mark, '' }
end

local function settled(list)
  local words = {}
  for _, p in ipairs(list) do
    if p[2] == '-' then words[#words + 1] = p[1] end
  end
  return words
end

local function take(lock, id, state, publishes, life, blob)
  call('HSET', lock, 'holder', id, 'state', state, 'since', now_text, 'expires', int(now + life), 'publishes', publishes,
    unpack(cmsgpack.unpack(blob)))
  call('PEXPIRE', lock, int(life))
end

-- Whether the record lists the key: where its entry begins and ends.
local function find_entry(record, digest)
  return string.find(record, '\n' .. digest .. ' [^\n]*')
end

-- The record lists the key, and lives at least that long.
local function note_id(idkey, entry, life)
  if call('SET', idkey, entry, 'PX', int(life), 'NX') then return end
  local record = call('GET', idkey)
  if not find_entry(record, string.sub(entry, 2, 65)) then record = record .. entry end
  call('SET', idkey, record, 'PX', int(math.max(life, call('PTTL', idkey))))
end

local function forget_id(idkey, digest)
  local record = call('GET', idkey)
  if not record then return end
  local from, to = find_entry(record, digest)
  if not from then return end
  record = string.sub(record, 1, from - 1) .. string.sub(record, to + 1)
  if record == '' then
    call('DEL', idkey)
  else
    call('SET', idkey, record, 'KEEPTTL')
  end
end

local function prolong(lock, expires, life)
  if now + life > (tonumber(expires) or 0) then
    call('HSET', lock, 'expires', int(now + life))
    call('PEXPIRE', lock, int(life))
  end
end

local FREEING = { s = { 'a', 'r', 'd' }, a = { 'a', 'r' }, r = { 'r' }, n = {} }

-- Whether a signal that frees such a lock was heard before. `ends` is what frees it: s any signal, a ack or reject, r reject, n none.
local function ended(id, nonce, ends)
  if ends == 'n' then return false end
  local words = call('GET', ended_of(id))
  if not words then return false end
  for _, signal in ipairs(FREEING[ends]) do
    if string.find(words, ' ' .. signal .. '* ', 1, true) or string.find(words, ' ' .. signal .. nonce .. ' ', 1, true) then return true end
  end
  return false
end

-- Notes a signal and the publishes that it ended; it takes no earlier one back.
local function note_ended(id, signal, publishes, kept)
  local key = ended_of(id)
  local words, left = call('GET', key), 0
  if words then left = call('PTTL', key) else words = ' ' end
  for _, publish in ipairs(publishes) do
    if not string.find(words, ' ' .. signal .. publish .. ' ', 1, true) then
      local _, count = string.gsub(words, '%S+', '')
      if count >= ENDED_WORDS then
        local all = ' '
        for _, letter in ipairs(FREEING.s) do
          if string.find(words, ' ' .. letter, 1, true) then all = all .. letter .. '* ' end
        end
        words = all
      end
      words = words .. signal .. publish .. ' '
    end
  end
  call('SET', key, words, 'PX', int(math.max(left, kept)))
end

local function prolong_ended(id)
  if call('PTTL', ended_of(id)) > 0 then call('PEXPIRE', ended_of(id), ENDED_KEPT) end
end

-- What `freed` tells of a lock, as fields to ask for and as an answer.
local function freed(digest, reason, holder, rule, task, since, shadow)
  return { digest, holder, rule or '', task or '', reason, now - (tonumber(since) or now), shadow and 1 or 0 }
end

local ops = {}

-- Acquire: id, nonce, reentrant, lease, life, entry, blob.
function ops.A(lock, idkey, a)
  local id, nonce, lease, life = ARGV[a], ARGV[a + 1], tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
  local l = call('HMGET', lock, 'holder', 'state', 'expires', 'publishes')
  local holder = l[1]
  if not holder then
    take(lock, id, 'leased', nonce, lease, ARGV[a + 6])
    note_id(idkey, ARGV[a + 5], lease + life)
    return 0
  end
  if holder == id then
    local list = parse(l[4])
    if not find(list, nonce) then
      push(list, nonce, '')
      call('HSET', lock, 'publishes', format(list))
    end
    prolong(lock, l[3], lease)
    note_id(idkey, ARGV[a + 5], lease + life)
    return 1
  end
  if ARGV[a + 2] == '1' or find_entry(call('GET', idkey) or '', digest_of(lock)) then
    note_id(idkey, ARGV[a + 5], lease + life)
    return 2
  end
  if l[2] == 'leased' then return { holder } end
  return { holder, l[2], math.max(0, (tonumber(l[3]) or now) - now) }
end

-- Commit: id, nonce, lease, life, entry, ends, blob.
function ops.C(lock, idkey, a)
  local id, nonce, lease, life = ARGV[a], ARGV[a + 1], tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  local l = call('HMGET', lock, 'holder', 'state', 'expires', 'publishes', 'grace', 'since')
  local holder = l[1]
  if holder == id then
    local publishes = nonce .. '+'
    if l[4] ~= nonce then
      local list = parse(l[4])
      local publish = find(list, nonce)
      if not publish then
        push(list, nonce, '+')
      elseif publish[2] == '' then
        publish[2] = '+'
      end
      if l[5] and in_flight(list) == 0 then return 1 end
      publishes = format(list)
    end
    local expires = math.max(now + life, tonumber(l[3]) or 0)
    call('HSET', lock, 'state', l[2] == 'leased' and 'queued' or l[2], 'publishes', publishes, 'expires', int(expires))
    call('PEXPIRE', lock, int(expires - now))
    -- The acquire has written the record for a lease more than a life.
    if now - (tonumber(l[6]) or 0) > lease then note_id(idkey, ARGV[a + 4], life) end
    return 0
  end
  if ended(id, nonce, ARGV[a + 5]) then return 1 end
  if holder then return { holder } end
  take(lock, id, 'queued', nonce .. '+', life, ARGV[a + 6])
  note_id(idkey, ARGV[a + 4], life)
  return 0
end

-- Lease renewal: id, nonce, lease, life, entry, ends, blob.
function ops.R(lock, idkey, a)
  local id, nonce, lease = ARGV[a], ARGV[a + 1], tonumber(ARGV[a + 2])
  local l = call('HMGET', lock, 'holder', 'state', 'expires', 'publishes')
  if l[1] then
    if l[1] == id and l[2] == 'leased' and in_flight(parse(l[4])) > 0 then prolong(lock, l[3], lease) end
    prolong_ended(id)
  elseif ended(id, nonce, ARGV[a + 5]) then
    prolong_ended(id)
  else
    take(lock, id, 'leased', nonce, lease, ARGV[a + 6])
    note_id(idkey, ARGV[a + 4], lease + tonumber(ARGV[a + 3]))
  end
  return 0
end

-- Unpublish: id, nonce, reason.
function ops.U(lock, idkey, a)
  local id, nonce = ARGV[a], ARGV[a + 1]
  local l = call('HMGET', lock, 'holder', 'state', 'publishes', 'rule', 'task', 'since', 'shadow')
  if l[1] ~= id then return {} end
  local list = parse(l[3])
  local publish = find(list, nonce)
  if not publish or publish[2] == '-' then return {} end
  publish[2], publish[3] = '-', nonce
  if in_flight(list) > 0 or (l[2] ~= 'leased' and l[2] ~= 'queued') then
    call('HSET', lock, 'publishes', format(list))
    return {}
  end
  call('DEL', lock)
  forget_id(idkey, digest_of(lock))
  return { freed(digest_of(lock), ARGV[a + 2], id, l[4], l[5], l[6], l[7]) }
end

-- What a signal does to one lock: whether the id still claims the key, the publishes it ends if any, and what is told if the lock goes.
local function signal_lock(digest, id, settlement, signal)
  local lock = lock_of(digest)
  local l = call('HMGET', lock, 'holder', 'scope', 'publishes', 'grace', 'rule', 'task', 'since', 'shadow', 'expires')
  if l[1] ~= id then return false, { '*' } end
  if l[2] == 'until_expired' then return true end
  local list, oldest = parse(l[3]), nil
  for _, p in ipairs(list) do
    if p[2] == '-' then
      if p[3] == settlement then return true end
    elseif not oldest then
      oldest = p
    end
  end
  if oldest then oldest[2], oldest[3] = '-', settlement end
  if signal == 'r' or l[2] == 'until_started' then
    call('DEL', lock)
    return false, settled(list), freed(digest, signal == 'r' and 'ended' or 'started', id, l[5], l[6], l[7], l[8])
  end
  if signal == 'a' and l[4] and in_flight(list) == 0 then
    local grace = math.min(tonumber(l[4]), math.max(0, (tonumber(l[9]) or now) - now))
    call('HSET', lock, 'publishes', format(list), 'expires', int(now + grace))
    call('PEXPIRE', lock, int(grace))
    return true, settled(list), freed(digest, 'ended', id, l[5], l[6], l[7], l[8]), grace
  end
  call('HSET', lock, 'publishes', format(list))
  return true
end

-- Signal: id, settlement, signal (a ack, r reject, d delivered without ack).
function ops.S(_, idkey, a)
  local id, signal = ARGV[a], ARGV[a + 2]
  local record, out, ends = call('GET', idkey), {}, nil
  if not record then
    note_ended(id, signal, { '*' }, UNKNOWN_KEPT)
    return out
  end
  local kept, entries, shortest = {}, 0, nil
  for entry, digest in string.gmatch(record, '(\n(%x+)[^\n]*)') do
    local claims, publishes, told, grace = signal_lock(digest, id, ARGV[a + 1], signal)
    entries = entries + 1
    if claims then kept[#kept + 1] = entry end
    if told then out[#out + 1] = told end
    shortest = grace
    if publishes then
      ends = ends or {}
      if #publishes == 0 then publishes = { '*' } end
      for _, nonce in ipairs(publishes) do ends[#ends + 1] = nonce end
    end
  end
  if #kept == 0 then
    call('DEL', idkey)
  elseif #kept < entries then
    call('SET', idkey, table.concat(kept), 'KEEPTTL')
  end
  -- The record ends with the only lock it lists.
  if #kept == 1 and entries == 1 and shortest then call('PEXPIRE', idkey, int(shortest)) end
  if ends then
    if string.find(table.concat(ends, ' '), '*', 1, true) then ends = { '*' } end
    note_ended(id, signal, ends, ENDED_KEPT)
  end
  return out
end

-- Release by an operator: whether a holder is named, its id.
function ops.D(lock, _, a)
  local l = call('HMGET', lock, 'holder', 'rule', 'task', 'since', 'shadow')
  if not l[1] or (ARGV[a] == '1' and l[1] ~= ARGV[a + 1]) then return {} end
  call('DEL', lock)
  forget_id(id_of(l[1]), digest_of(lock))
  return { freed(digest_of(lock), 'admin', l[1], l[2], l[3], l[4], l[5]) }
end

-- Show.
function ops.Q(lock)
  return call('HMGET', lock, 'holder', 'state', 'rule', 'task', 'summary', 'worker', 'proxy', 'queue', 'since', 'expires', 'scope',
    'shadow', 'publishes')
end

local arguments = { A = 7, C = 7, R = 7, U = 3, S = 3, D = 2, Q = 0 }
local answers, at = {}, 2
for question = 1, #KEYS / 2 do
  local op = ARGV[at]
  local done, answer = pcall(ops[op], KEYS[2 * question - 1], KEYS[2 * question], at + 1)
  -- One question that Redis refuses does not spoil the others.
  if not done then answer = { '!', type(answer) == 'table' and answer.err or tostring(answer) } end
  answers[question] = answer
  at = at + 1 + arguments[op]
end
return answers
