
-- Entries of schedules, for Redis; the same rules as in `memory/beat.rs`.
--
-- `PREFIX:beat:{DIGEST}` is the origin of the beat whose entry it is, for as long as it is.

-- Whose entry it is: the beat that asks, and for how long. 0 if it is that beat's now, else whose it is and for how long.
function ops.B(key, _, a)
  local owner = call('GET', key)
  if owner and owner ~= ARGV[a] then return { owner, call('PTTL', key) } end
  call('SET', key, ARGV[a], 'PX', ARGV[a + 1])
  return 0
end

arguments.B = 2
