// Gradients of whole models: against torch autograd with PEFT in fp64 (train-oracle.py), and central differences in fp64.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { transpose } from '../../compiler/adapter/low-rank.ts'
import type { Feeds } from '../../compiler/verify/session.ts'
import { makeBatch } from '../../trainer/data/batch.ts'
import { dropoutFeeds } from '../../trainer/data/dropout.ts'
import type { Example } from '../../trainer/data/example.ts'
import { trainingNames } from '../../trainer/graph/names.ts'
import { type LoraOptions, selectLora } from '../../trainer/lora/select.ts'
import { seeded } from '../compiler/random.ts'
import { interpret, type Value, type Values } from './interpreter.ts'
import { type Learning, LORA, openLearning, readTensors, readWeights } from './learning.ts'

const PARITY = join(import.meta.dirname, '../parity/oracle')
const TOLERANCE = 1e-4

interface Case {
  readonly loss: number
  readonly ids: readonly (readonly number[])[]
  readonly mask: readonly (readonly number[])[]
  readonly labels: readonly (readonly number[])[]
}
const oracle = JSON.parse(readFileSync(join(PARITY, 'train/oracle.json'), 'utf8')) as {
  cases: Record<string, Case>
  variants: Record<string, Case>
}

const examplesOf = ({ ids, mask, labels }: Case): Example[] =>
  ids.map((row, r) => {
    const length = mask[r]!.reduce((sum, bit) => sum + bit, 0)
    return { ids: row.slice(0, length), isTarget: labels[r]!.slice(0, length).map((label) => label >= 0) }
  })

const batchOf = (one: Case) => {
  const examples = examplesOf(one)
  const targets = examples.reduce((sum, { isTarget }) => sum + isTarget.filter(Boolean).length, 0)
  return makeBatch(
    examples.map((example) => [example]),
    1 / targets,
    2,
  )
}

/** Names and layout of PEFT → those of the graph. */
async function feedsOf(learning: Learning, path: string, prefix = ''): Promise<Feeds> {
  const stored = await readTensors(path)
  return Object.fromEntries(
    learning.trainable.map((name) => {
      const tensor = stored.get(`${prefix}${name}.weight`) ?? stored.get(`${prefix}${name}`)
      if (tensor === undefined) throw new Error(`${path} has no ${name}`)
      const [rows = 0, columns] = tensor.shape
      if (columns === undefined) return [name, { data: tensor.data, dims: [rows] }]
      return [name, { data: transpose(tensor.data, rows, columns), dims: [columns, rows] }]
    }),
  )
}

const relative = (found: ArrayLike<number>, wanted: ArrayLike<number>) => {
  let error = 0
  let norm = 0
  for (let i = 0; i < wanted.length; i += 1) {
    error += ((found[i] as number) - (wanted[i] as number)) ** 2
    norm += (wanted[i] as number) ** 2
  }
  return Math.sqrt(error / norm)
}

/**
 * How far the gradient is from central differences in fp64, along one direction over all that is trained: every gradient
 * has its part in it.
 */
function disagreement({ graph, trainable }: Learning, inputs: Values, weights: Values): number {
  const values = interpret(graph, inputs, weights)
  const random = seeded(3)
  const moved = new Map<string, [Value, Value]>()
  let slope = 0
  for (const trained of trainable) {
    const at = inputs.get(trained) as Value
    const direction = at.data.map(() => random() - 0.5)
    const gradient = values.get(trainingNames.gradient(trained)) as Value
    slope += gradient.data.reduce((sum, g, i) => sum + g * (direction[i] as number), 0)
    const shift = (by: number) => ({ ...at, data: at.data.map((x, i) => x + by * (direction[i] as number)) })
    moved.set(trained, [shift(-1e-5), shift(1e-5)])
  }
  const [before, after] = [0, 1].map((side) => {
    const all = new Map([...inputs, ...[...moved].map(([key, pair]) => [key, pair[side]] as [string, Value])])
    return interpret(graph, all, weights).get(trainingNames.loss)?.data[0] as number
  }) as [number, number]
  return Math.abs((after - before) / 2e-5 / slope - 1)
}

async function expectOracle(learning: Learning, feeds: Feeds, one: Case, gradients: string): Promise<void> {
  const { feeds: data } = batchOf(one)
  const results = await learning.session.run({ ...feeds, ...data })
  expect(Math.abs((results[trainingNames.loss]!.data[0] as number) / one.loss - 1)).toBeLessThan(1e-5)
  const wanted = await feedsOf(learning, join(PARITY, 'train', gradients))
  for (const name of learning.trainable) {
    const found = results[trainingNames.gradient(name)]!.data as Float32Array
    expect(relative(found, wanted[name]!.data as Float32Array), name).toBeLessThan(TOLERANCE)
  }
}

describe.each(Object.entries(oracle.cases))('%s', (name, one) => {
  const base = join(PARITY, 'decoders', name, 'base')
  const adapter = join(PARITY, 'decoders', name, 'adapter/adapter_model.safetensors')
  const lora: LoraOptions = name === 'gpt2' ? { ...LORA, targetModules: ['c_attn', 'c_proj', 'c_fc'] } : LORA

  it.each([false, true])('has the gradients of torch and PEFT, activations computed again: %s', async (recompute) => {
    await using learning = await openLearning({ base, lora, recompute })
    await expectOracle(learning, await feedsOf(learning, adapter, 'base_model.model.'), one, `${name}.safetensors`)
  })

  it('has gradients along which the loss moves as central differences say in fp64', async () => {
    await using learning = await openLearning({ base, lora })
    const weights = await readWeights(learning.graph, learning.path)
    const given = { ...(await feedsOf(learning, adapter, 'base_model.model.')), ...batchOf(one).feeds }
    const inputs = new Map(
      Object.entries(given).map(([key, { data, dims }]) => [
        key,
        { dims, data: Float64Array.from(data as Float32Array, Number) },
      ]),
    )
    expect(disagreement(learning, inputs, weights)).toBeLessThan(1e-6)
  })
})

describe.each(Object.entries(oracle.variants))('%s', (name, one) => {
  const base = join(PARITY, 'decoders/llama-llama3/base')
  const lora: LoraOptions =
    name === 'dora'
      ? { ...LORA, useDora: true }
      : { ...LORA, useRslora: true, rankPattern: { q_proj: 3, down_proj: 2 } }

  it.each([false, true])('has the gradients of torch and PEFT, activations computed again: %s', async (recompute) => {
    await using learning = await openLearning({ base, lora, recompute })
    const feeds = await feedsOf(learning, join(PARITY, 'train', `${name}.weights.safetensors`))
    await expectOracle(learning, feeds, one, `${name}.safetensors`)
  })
})

describe('what torch has no oracle for here', () => {
  const base = join(PARITY, 'decoders/olmo2/base')
  const [one] = Object.values(oracle.cases) as [Case]

  it.each([
    ['dropout', { dropout: 0.3 }, false],
    ['dropout, activations computed again', { dropout: 0.3 }, true],
    ['PiSSA', { init: 'pissa' }, false],
    ['PiSSA, activations computed again', { init: 'pissa' }, true],
  ] as const)('has gradients as central differences say in fp64: %s', async (_, more, recompute) => {
    const lora = { ...LORA, r: 3, ...more }
    await using learning = await openLearning({ base, lora, recompute })
    const weights = await readWeights(learning.graph, learning.path)
    const spec = selectLora(learning.checkpoint.config.architecture, lora)
    const random = seeded(5)
    const inputs = new Map<string, Value>()
    const { feeds } = batchOf(one)
    for (const { name, shape } of learning.graph.inputs) {
      const rank = name.endsWith('lora_A') || name.includes('lora_B') || name.includes('.start') ? 3 : 0
      const dims = shape.map((dim) => (typeof dim === 'number' ? dim : rank))
      inputs.set(name, {
        dims,
        data: Float64Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => 0.4 * (random() - 0.5)),
      })
    }
    const noise = dropoutFeeds(spec, feeds[trainingNames.segments]!.data.length, 4, 'test')
    for (const [name, { data, dims }] of Object.entries({ ...feeds, ...noise })) {
      inputs.set(name, { dims, data: Float64Array.from(data as Float32Array, Number) })
    }
    expect(disagreement(learning, inputs, weights)).toBeLessThan(1e-6)
  })
})
