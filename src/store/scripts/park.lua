
-- Parked messages, for Redis; the same rules as in `memory/park.rs`.
--
-- `PREFIX:park:ID` is a hash of the messages of an id that were parked, by their fingerprints. Each is packed: `token`, its newest copy, and
-- the `state` of that; `digest`, `rule`, `place` (empty if there is none), `life`; `expires`; `former`, the copies before the newest, the
-- oldest first, of which so many as `over` says are over whatever becomes of the newest, as the broker had a later one; `copied` if the
-- broker had one of them.

local PARKED_KEPT, FORMER_KEPT, PARK_DONE_KEPT = 64, 8, 86400000
local PARK_STATES = { sending = 1, sent = 2, handed = 3, done = 4 }

local function parked(key, fingerprint)
  local packed = call('HGET', key, fingerprint)
  local m = packed and cmsgpack.unpack(packed)
  if m and m.expires > now then return m end
end

-- It never lives shorter than before.
local function write_parked(key, fingerprint, m)
  m.expires = math.max(m.expires or 0, now + (m.state == 'done' and PARK_DONE_KEPT or m.life))
  call('HSET', key, fingerprint, cmsgpack.pack(m))
  live_at_least(key, m.expires - now)
end

local function position(list, wanted)
  for at, value in ipairs(list) do
    if value == wanted then return at end
  end
end

-- Removes what has lapsed; if there is no room for one more then, also the one that would lapse first.
local function make_room(key)
  local all, live, first, soonest = call('HGETALL', key), 0, nil, nil
  for at = 1, #all, 2 do
    local fingerprint, expires = all[at], cmsgpack.unpack(all[at + 1]).expires
    if expires <= now then
      call('HDEL', key, fingerprint)
    else
      live = live + 1
      if not first or expires < soonest or expires == soonest and fingerprint < first then first, soonest = fingerprint, expires end
    end
  end
  if live >= PARKED_KEPT then call('HDEL', key, first) end
end

-- A copy is about to be published: token, fingerprint, digest, rule, place, life.
function ops.P(key, _, a)
  local token, fingerprint = ARGV[a], ARGV[a + 1]
  local m = parked(key, fingerprint)
  if not m then
    make_room(key)
    m = { former = {}, over = 0 }
  elseif m.token == token or position(m.former, token) then
    -- A late repetition of an earlier one changes nothing.
    return 0
  else
    if m.state ~= 'sending' then m.over, m.copied = #m.former, true end
    m.former[#m.former + 1] = m.token
    if #m.former > FORMER_KEPT then
      table.remove(m.former, 1)
      m.over = math.max(0, m.over - 1)
    end
  end
  m.token, m.state, m.digest, m.rule, m.place, m.life = token, 'sending', ARGV[a + 2], ARGV[a + 3], ARGV[a + 4], tonumber(ARGV[a + 5])
  write_parked(key, fingerprint, m)
  return 0
end

-- The newest copy has come so far: token, fingerprint, state.
function ops.T(key, _, a)
  local m = parked(key, ARGV[a + 1])
  if not m or m.token ~= ARGV[a] then return 0 end
  if PARK_STATES[ARGV[a + 2]] > PARK_STATES[m.state] then m.state = ARGV[a + 2] end
  write_parked(key, ARGV[a + 1], m)
  return 0
end

-- What is known of a delivery: fingerprint, c or o for a copy or the original, the token of a copy. Answers 0 unknown, 1 over, or the message.
function ops.F(key, _, a)
  local m = parked(key, ARGV[a])
  if not m then return 0 end
  -- While the broker may not have the newest copy, the one before it is not over: it may be all that there is.
  local in_doubt, runs = m.state == 'sending', nil
  if ARGV[a + 1] == 'o' then
    runs = in_doubt and not m.copied
  elseif ARGV[a + 2] == m.token then
    runs = m.state ~= 'done'
  else
    local at = position(m.former, ARGV[a + 2])
    if not at then return 0 end
    runs = in_doubt and at > m.over
  end
  if not runs then return 1 end
  return { m.token, m.digest, m.rule, m.place }
end

arguments.P, arguments.T, arguments.F = 6, 3, 3
