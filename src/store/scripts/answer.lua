-- Answers the questions in their order.

local answers, at = {}, first_question
for question = 1, #KEYS / 2 do
  local op = ARGV[at]
  local done, answer = pcall(ops[op], KEYS[2 * question - 1], KEYS[2 * question], at + 1)
  -- One question that Redis refuses does not spoil the others.
  if not done then answer = { '!', type(answer) == 'table' and answer.err or tostring(answer) } end
  answers[question] = answer
  at = at + 1 + arguments[op]
end
return answers
