// The engine against Hugging Face transformers and PEFT: tokens, scores and tokenizer.
import { beforeAll, describe, expect, test } from 'vitest'
import { score } from '../../gpu-backend/score.ts'
import { openText, type Text } from '../../gpu-backend/text/tokenizer.ts'
import { openFolder } from '../../runtime/disk.ts'
import { type Artifact, compileDemo, demoOracle } from './artifacts.ts'
import { collect, type InProcess, openInProcess } from './in-process.ts'

let demo: Artifact
let engine: InProcess
let text: Text

beforeAll(async () => {
  demo = await compileDemo()
  engine = await openInProcess(demo.path)
  text = (await openText(openFolder(demo.path)))!
})

const VARIANTS = ['base', 'triage', 'dates', 'clauses']

describe('greedy tokens', () => {
  test.each(VARIANTS)('%s: continuations equal those of transformers + PEFT', async (variant) => {
    const adapter = variant === 'base' ? null : demo.digest(variant)
    for (const [place, { ids: promptIds }] of demoOracle.prompts.entries()) {
      const expected = demoOracle.greedy.continuations[variant]![place]!
      const found = await collect(engine, { promptIds, adapter, maxTokens: 32 })
      expect(found.ids).toEqual(expected.ids)
      expect(found.text).toBe(expected.text)
    }
  })

  test('every variant and prompt in one engine at once gives the same tokens', async () => {
    const found = await Promise.all(
      VARIANTS.flatMap((variant) =>
        demoOracle.prompts.map(({ ids: promptIds }) =>
          collect(engine, { promptIds, adapter: variant === 'base' ? null : demo.digest(variant), maxTokens: 32 }),
        ),
      ),
    )
    expect(found.map(({ ids }) => ids)).toEqual(
      VARIANTS.flatMap((variant) => demoOracle.greedy.continuations[variant]!.map(({ ids }) => ids)),
    )
  })
})

describe('score', () => {
  test.each(VARIANTS)('%s: log-probabilities equal those of transformers + PEFT', async (variant) => {
    const adapter = variant === 'base' ? {} : { adapter: variant }
    const found = await score({ artifact: demo.path, ...adapter, input: { text: demoOracle.score.text } })
    const expected = demoOracle.score.logprobs_of_ids_from_1[variant]!
    expect(found.tokens.map(({ id }) => id)).toEqual(demoOracle.score.ids)
    expect(found.tokens[0]!.logprob).toBeNull()
    for (const [at, logprob] of expected.entries()) expect(found.tokens[at + 1]!.logprob).toBeCloseTo(logprob, 3)
    const sum = expected.reduce((all, logprob) => all + logprob, 0)
    expect(found.sumLogprob).toBeCloseTo(sum, 2)
    expect(found.perplexity).toBeCloseTo(Math.exp(-sum / expected.length), 2)
  })

  test('a merged artifact scores as its adapter does', async () => {
    const merged = await compileDemo('merged', 'dates')
    const input = { tokenIds: demoOracle.score.ids }
    const [a, b] = [
      await score({ artifact: merged.path, input }),
      await score({ artifact: demo.path, adapter: 'dates', input }),
    ]
    expect(a.sumLogprob).toBeCloseTo(b.sumLogprob, 3)
    await expect(score({ artifact: merged.path, adapter: 'dates', input })).rejects.toThrow('no adapter slots')
  })

  test('refuses what it cannot score, and says what to do', async () => {
    const at = { artifact: demo.path }
    await expect(score({ ...at, input: { tokenIds: [1] } })).rejects.toThrow('two tokens or more')
    await expect(score({ ...at, input: { tokenIds: [1, 2048] } })).rejects.toThrow('token id 2048 is not below 2048')
    await expect(score({ ...at, adapter: 'none', input: { text: 'x' } })).rejects.toThrow(
      'it has: clauses, dates, triage',
    )
    await expect(score({ ...at, input: { tokenIds: Array(513).fill(5) } })).rejects.toThrow('512 positions')
  })
})

describe('tokenizer', () => {
  test('encodes as Hugging Face tokenizers does', () => {
    for (const { text: given, ids_with_special } of demoOracle.tokenizer.strings) {
      expect(text.encode(given, 512), JSON.stringify(given)).toEqual(ids_with_special)
    }
  })

  test('decodes as Hugging Face tokenizers does', () => {
    for (const { ids_with_special, decoded_skip_special } of demoOracle.tokenizer.strings) {
      expect(text.decode(ids_with_special)).toBe(decoded_skip_special)
    }
  })

  test('renders conversations as transformers does', () => {
    for (const { messages, add_generation_prompt, ids } of demoOracle.tokenizer.chat_template) {
      if (add_generation_prompt) expect(text.encodeChat(messages, 512)).toEqual(ids)
    }
  })

  test('refuses a text that cannot fit before it is tokenised, and one that does not fit', () => {
    expect(() => text.encode('a'.repeat(1_000_000), 512)).toThrow('1000000 characters')
    expect(() => text.encode('1'.repeat(100), 50)).toThrow(/101 tokens; at most 50/)
  })
})
