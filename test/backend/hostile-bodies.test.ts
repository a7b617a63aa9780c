// Bodies that nobody should send: each is answered or refused by name, and the backend serves on.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ChatCompletionRequest, CompletionRequest, paths } from '../../gpu-backend/contract.ts'
import { demoOracle } from './artifacts.ts'
import { read, startBackend } from './backend.ts'

const at = startBackend()

/** Values that a field might take by malice or mistake, many of them near a bound. */
const anything = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.constantFrom<unknown>(null, true, 0, 1, -1, 2, 20, 21, 0.5, 1e308, -0, '', 'a', [], {}, [[]]),
  },
  {
    weight: 3,
    arbitrary: fc.constantFrom<unknown>([1], [2047], [2048], [[1], [2]], ['a', ''], { '5': 1 }, { '5': 101 }),
  },
  {
    weight: 1,
    arbitrary: fc.constantFrom<unknown>({ type: 'json_object' }, { include_usage: true }, { type: 'text' }),
  },
  { weight: 2, arbitrary: fc.jsonValue({ maxDepth: 4 }) },
  { weight: 1, arbitrary: fc.string({ unit: 'binary', maxLength: 300 }) },
)
const messages = fc.array(
  fc.record(
    {
      role: fc.constantFrom('system', 'user', 'assistant', 'tool', 'root'),
      content: anything,
      tool_calls: anything,
      tool_call_id: anything,
    },
    { requiredKeys: ['role'] },
  ),
  { maxLength: 4 },
)

function bodiesOf(schema: { shape: object }, base: fc.Arbitrary<object>): fc.Arbitrary<object> {
  const fields = Object.keys(schema.shape).filter((field) => field !== 'prompt' && field !== 'messages')
  const some = fc.uniqueArray(fc.tuple(fc.constantFrom(...fields, 'adapter', 'model'), anything), {
    maxLength: 4,
    selector: ([field]) => field,
  })
  // Short answers: the last word on length is ours.
  return fc
    .tuple(base, some)
    .map(([own, more]) => ({ temperature: 0, max_tokens: 2, ...own, ...Object.fromEntries(more) }))
}

const cases: [string, fc.Arbitrary<object>][] = [
  [
    paths.completions,
    bodiesOf(CompletionRequest, fc.record({ prompt: fc.oneof(fc.constantFrom<unknown>('a', ['a', 'b']), anything) })),
  ],
  [paths.chat, bodiesOf(ChatCompletionRequest, fc.record({ messages: fc.oneof(messages, fc.constant([])) }))],
]

describe('a body', () => {
  test.each(cases)('to %s is answered or refused, never a fault (property)', async (path, bodies) => {
    await fc.assert(
      fc.asyncProperty(bodies, async (body) => {
        const answer = await at.post(path, body, { maxTokens: 8 })
        const text = await answer.text()
        expect([200, 400], `${answer.status} for ${JSON.stringify(body)}: ${text}`).toContain(answer.status)
        if (answer.status === 400) {
          const { error } = JSON.parse(text)
          expect(error.message.length).toBeLessThan(700)
          expect(['request_invalid', 'context_length_exceeded']).toContain(error.code)
        }
      }),
      { numRuns: 250 },
    )
  })

  test('after all of them the answers are what they were', async () => {
    const { text: prompt } = demoOracle.prompts[0]!
    const [expected] = demoOracle.greedy.continuations.triage!
    const as = { adapter: at.demo.digest('triage') }
    const found = await read(at.post(paths.completions, { prompt, temperature: 0, max_tokens: 32 }, as))
    expect(found.choices[0]!.text).toBe(expected!.text)
    expect(at.logged.filter(({ event }) => event === 'fault' || event === 'engine_fault')).toEqual([])
  })
})
