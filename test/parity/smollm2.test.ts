// A real model from its GGUF, compiled here, against llama.cpp on the same file: tokens, greedy answers, perplexity.
// Needs the model (`node scripts/fetch-models.ts smollm2`); where it is not on this machine, this says so and skips.
import { createHash } from 'node:crypto'
import { createReadStream, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openGguf } from '../../compiler/gguf/folder.ts'
import { openModel } from '../../gpu-backend/engine/open.ts'
import { score } from '../../gpu-backend/score.ts'
import { openText } from '../../gpu-backend/text/tokenizer.ts'
import { openFile, openFolder } from '../../runtime/disk.ts'
import { findModel } from '../../scripts/models.ts'
import { type Compiled, compileToDisk } from '../compiler/folders.ts'

interface Oracle {
  readonly sha256: string
  readonly tokenised: readonly { readonly text: string; readonly special: readonly number[] }[]
  readonly continuations: readonly {
    readonly prompt: string
    readonly ids: readonly number[]
    readonly made: readonly number[]
  }[]
  readonly passage: { readonly ids: readonly number[]; readonly perplexity: number }
}

/** Questions written down before anything was run on them; llama.cpp's answers, and those it gives in another setting. */
interface Questions {
  readonly questions: readonly (Record<Setting, readonly number[]> & { readonly ids: readonly number[] })[]
}
type Setting = 'default' | 'cacheInFloat32' | 'flashAttention' | 'weightsInFloat32'

const CONTINUED = 24
const MUST_AGREE = 18
const PERPLEXITY_TOLERANCE = 0.01
const TIMEOUT_MS = 120_000
const MAX_TOKENS = 8192

const stored = (file: string): Oracle =>
  JSON.parse(readFileSync(join(import.meta.dirname, 'oracle/smollm2', file), 'utf8'))
const oracle = stored('llama-cpp.json')
/** llama.cpp on the same weights, dequantised: it then rounds no activation to eight bits, and neither do we. */
const unrounded = stored('llama-cpp-float32.json')

const { questions }: Questions = JSON.parse(
  readFileSync(join(import.meta.dirname, 'oracle/smollm2/questions-llama-cpp.json'), 'utf8'),
)

/** Tokens that two greedy continuations have in common before they part, at most `CONTINUED`. */
function agreement(a: readonly number[], b: readonly number[]): number {
  const parts = a.slice(0, CONTINUED).findIndex((id, at) => b[at] !== id)
  return parts < 0 ? CONTINUED : parts
}

/**
 * A prompt whose continuation turns on llama.cpp's own rounding of activations says nothing of another implementation:
 * of the prompts, the first twenty on which llama.cpp agrees with itself, rounded and not.
 */
const STEADY = oracle.continuations
  .map(({ made }, i) => (agreement(made, unrounded.continuations[i]!.made) === CONTINUED ? i : -1))
  .filter((i) => i >= 0)
  .slice(0, 20)
const FIRST = oracle.continuations.slice(0, 20).map((_, i) => i)
const path = findModel('smollm2')
if (path === undefined) {
  process.stderr.write(
    'SKIPPED: SmolLM2 against llama.cpp: the model is not here; run node scripts/fetch-models.ts smollm2\n',
  )
}

describe.skipIf(path === undefined)('SmolLM2-135M-Instruct from its Q4_1 GGUF', () => {
  let compiled: Compiled

  beforeAll(async () => {
    const hash = createHash('sha256')
    await pipeline(createReadStream(path!), hash)
    expect(hash.digest('hex')).toBe(oracle.sha256)
    const base = await openGguf(() => openFile(path!))
    compiled = await compileToDisk({ base, adapters: [], target: 'merged' })
  }, TIMEOUT_MS)

  afterAll(() => compiled?.[Symbol.asyncDispose]())

  it('reads the architecture out of the metadata', () => {
    const { architecture, eosTokenIds } = compiled.manifest.base
    expect(architecture).toMatchObject({ layers: 30, heads: 9, kvHeads: 3, hiddenSize: 576, vocabSize: 49_152 })
    expect(eosTokenIds).toEqual([2])
  })

  it('gives the tokens that llama.cpp gives', async () => {
    const text = (await openText(openFolder(compiled.path)))!
    for (const { text: given, special } of oracle.tokenised) expect(text.encode(given, MAX_TOKENS)).toEqual(special)
  })

  it(
    `continues ${MUST_AGREE} of 20 prompts as llama.cpp does for ${CONTINUED} tokens`,
    async () => {
      expect(STEADY.length).toBe(20)
      const asked = [...new Set([...FIRST, ...STEADY])]
      const answers = await continueAll(
        compiled.path,
        asked.map((i) => oracle.continuations[i]!.ids),
      )
      const made = new Map(asked.map((i, at) => [i, answers[at]!]))
      const common = ({ continuations }: Oracle, prompts: readonly number[]) =>
        prompts.map((i) => agreement(continuations[i]!.made, made.get(i)!))
      const whole = (lengths: readonly number[]) => lengths.filter((length) => length === CONTINUED).length
      const [steady, first, floats] = [common(oracle, STEADY), common(oracle, FIRST), common(unrounded, FIRST)]
      process.stderr.write(`greedy tokens in common with llama.cpp, steady prompts: ${steady.join(' ')}\n`)
      process.stderr.write(`the first twenty prompts, steady or not: ${first.join(' ')}\n`)
      process.stderr.write(`the same, llama.cpp's weights dequantised: ${floats.join(' ')}\n`)
      expect(whole(steady)).toBeGreaterThanOrEqual(MUST_AGREE)
      expect(whole(floats)).toBeGreaterThanOrEqual(MUST_AGREE)
    },
    TIMEOUT_MS,
  )

  it(
    `answers ${MUST_AGREE} of 20 unselected questions as llama.cpp does where it rounds no activation; where it rounds, as many as it does itself in another setting`,
    async () => {
      const prompts = questions.map(({ ids }) => ids)
      const made = await continueAll(compiled.path, prompts)
      const agree = (answers: readonly (readonly number[])[], setting: Setting) =>
        answers.filter((answer, i) => agreement(questions[i]![setting], answer) === CONTINUED).length
      const theirs = questions.map((question) => question.default)
      const [unrounded, same] = [agree(made, 'weightsInFloat32'), agree(made, 'default')]
      const [flash, cache] = [agree(theirs, 'flashAttention'), agree(theirs, 'cacheInFloat32')]
      process.stderr.write(
        `of ${questions.length} questions: llama.cpp's weights dequantised ${unrounded}, the same file ${same}; ` +
          `llama.cpp and itself with flash attention ${flash}, with its cache in F32 ${cache}\n`,
      )
      expect(unrounded).toBeGreaterThanOrEqual(MUST_AGREE)
      // On the same file nobody reaches 18, llama.cpp itself included: its eight-bit activations decide.
      expect(same).toBeGreaterThanOrEqual(Math.max(flash, cache))
    },
    TIMEOUT_MS,
  )

  it.each([
    { name: 'kept', activations: undefined },
    { name: 'kept, activations in int8', activations: 'int8' },
  ] as const)(
    '$name: its blocks carried over, it has the perplexity of llama.cpp within 1 %',
    async ({ activations }) => {
      const base = await openGguf(() => openFile(path!))
      const quantise = { method: 'keep', keep: [], ...(activations && { activations }) } as const
      await using kept = await compileToDisk({ base, adapters: [], target: 'merged', quantise })
      expect(kept.manifest.quantisation).toMatchObject({ method: 'keep', bits: 4, block: 32, grid: 'affine' })
      const { perplexity } = await score({ artifact: kept.path, input: { tokenIds: oracle.passage.ids } })
      process.stderr.write(`perplexity ${perplexity.toFixed(4)}, activations ${activations ?? 'by weight'}\n`)
      expect(Math.abs(perplexity / oracle.passage.perplexity - 1)).toBeLessThan(PERPLEXITY_TOLERANCE)
    },
    TIMEOUT_MS,
  )

  it(
    'has the perplexity of llama.cpp within 1 %',
    async () => {
      const { perplexity } = await score({ artifact: compiled.path, input: { tokenIds: oracle.passage.ids } })
      const [wanted, exact] = [oracle.passage.perplexity, unrounded.passage.perplexity]
      process.stderr.write(
        `perplexity ${perplexity.toFixed(4)}; llama.cpp ${wanted.toFixed(4)}, its weights dequantised ${exact.toFixed(4)}\n`,
      )
      expect(Math.abs(perplexity / oracle.passage.perplexity - 1)).toBeLessThan(PERPLEXITY_TOLERANCE)
    },
    TIMEOUT_MS,
  )
})

/** Greedy continuations of these prompts, all in one batch. */
async function continueAll(artifact: string, prompts: readonly (readonly number[])[]): Promise<number[][]> {
  const maxRows = prompts.length
  const config = { artifact, threads: 0, slots: 1, bankRank: undefined, maxRows }
  const { session, model } = await openModel({ ...config, kvBudgetBytes: Number.MAX_SAFE_INTEGER })
  try {
    const rows = await inOrder(prompts, async (ids) => {
      const row = model.open(ids.length + CONTINUED)
      // One by one: beside a long prompt, a short one would be padded to its length.
      const [output] = await model.forward([{ row, tokens: ids, slot: 0, logits: 'last' }])
      return { row, made: [argmax(output!.logits[0]!)] }
    })
    for (let step = 1; step < CONTINUED; step += 1) {
      const inputs = rows.map(({ row, made }) => ({ row, tokens: made.slice(-1), slot: 0, logits: 'last' as const }))
      const outputs = await model.forward(inputs)
      for (const [i, { logits }] of outputs.entries()) rows[i]!.made.push(argmax(logits[0]!))
    }
    return rows.map(({ made }) => made)
  } finally {
    await session.release()
  }
}

async function inOrder<T, R>(items: readonly T[], step: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = []
  for (const item of items) results.push(await step(item))
  return results
}

function argmax(values: Float32Array): number {
  let best = 0
  for (let i = 1; i < values.length; i += 1) if (values[i]! > values[best]!) best = i
  return best
}
