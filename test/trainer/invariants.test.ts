// What training promises of the base and of its first step, and how a packed base is unpacked.
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { linearWeight } from '../../compiler/graph/linear.ts'
import { encodeModel } from '../../compiler/onnx/encode.ts'
import type { QuantiseOptions } from '../../compiler/quantise/spec.ts'
import type { Feeds } from '../../compiler/verify/session.ts'
import { openSession } from '../../runtime/node.ts'
import { GraphWriter } from '../../trainer/autodiff/writer.ts'
import { makeBatch } from '../../trainer/data/batch.ts'
import { dropoutFeeds } from '../../trainer/data/dropout.ts'
import type { Example, Row } from '../../trainer/data/example.ts'
import { refuseFrozenGradients } from '../../trainer/graph/learn.ts'
import { trainingNames as names } from '../../trainer/graph/names.ts'
import { unpackWeight } from '../../trainer/graph/unpack.ts'
import { selectLora } from '../../trainer/lora/select.ts'
import { initialise, loraParameters, startFeeds } from '../../trainer/run/parameters.ts'
import { readWeight } from '../../trainer/run/prepare.ts'
import { seeded } from '../compiler/random.ts'
import { type Learning, LORA, openLearning } from './learning.ts'

const DEMO = join(import.meta.dirname, '../../examples/demo/base')
const TINY = join(import.meta.dirname, '../parity/oracle/decoders/llama-llama3/base')
const random = seeded(9)
const exampleOf = (length: number, vocab: number): Example => {
  const ids = Array.from({ length }, () => 3 + Math.floor(random() * (vocab - 3)))
  return { ids, isTarget: ids.map((_, at) => at > 2) }
}
const rowsOf = (vocab: number): Row[] => [11, 8, 5].map((length) => [exampleOf(length, vocab)])
const norm = (values: ArrayLike<number>) => {
  let sum = 0
  for (let at = 0; at < values.length; at += 1) sum += (values[at] as number) ** 2
  return Math.sqrt(sum)
}
/** ‖x − y‖ */
const distance = (x: ArrayLike<number>, y: ArrayLike<number>) =>
  norm(Array.from(x, (value, at) => value - (y[at] as number)))
const loss = (results: Feeds) => results[names.loss]?.data[0] as number

async function started(learning: Learning, lora = LORA) {
  const spec = selectLora(learning.checkpoint.config.architecture, lora)
  const parameters = loraParameters(spec)
  const factors = await initialise(spec, parameters, 1, (module) => readWeight(learning.checkpoint, module))
  return { spec, parameters, starts: startFeeds(spec, factors) }
}

describe('step 0', () => {
  it.each([
    ['default', {}],
    ['rsLoRA', { useRslora: true }],
    ['PiSSA', { init: 'pissa' }],
    ['DoRA', { useDora: true }],
    ['dropout', { dropout: 0.4 }],
  ] as const)('is the base, bit for bit: %s', async (_, more) => {
    const lora = { ...LORA, r: 3, ...more }
    const rows = rowsOf(43)
    const { feeds } = makeBatch(rows, 0.1, 2)
    await using base = await openLearning({
      base: TINY,
      trained: { lora: { ...spec0, modules: [] } },
      gradients: false,
    })
    await using learning = await openLearning({ base: TINY, lora })
    await using evaluation = await openLearning({ base: TINY, lora, gradients: false })
    const { spec, parameters, starts } = await started(learning, lora)
    const noise = dropoutFeeds(spec, 30, 1, 'test')
    if (spec.dora) {
      const norms = await learning.session.run({ ...parameters.feeds(), ...feeds }, learning.norms)
      for (const { linear } of spec.modules) {
        parameters.of(names.magnitude(linear.module)).set(norms[names.norm(linear.module)]?.data as Float32Array)
      }
    }
    const all = { ...parameters.feeds(), ...feeds, ...starts, ...noise }
    const wanted = loss(await base.session.run(feeds))
    // Graphs with gradients keep what others fuse, so their last bit may be another one.
    expect(loss(await evaluation.session.run(all))).toBe(wanted)
    expect(Math.abs(loss(await learning.session.run(all)) / wanted - 1)).toBeLessThan(2e-7)
  })

  it('moves B and not A', async () => {
    await using learning = await openLearning({ base: TINY })
    const { spec, parameters } = await started(learning)
    const results = await learning.session.run({ ...parameters.feeds(), ...makeBatch(rowsOf(43), 0.1, 2).feeds })
    for (const { linear } of spec.modules) {
      const gradient = (name: string) => results[names.gradient(name)]?.data as Float32Array
      expect(gradient(names.loraA(linear.module)).every((x) => x === 0)).toBe(true)
      expect(gradient(names.loraB(linear.module)).some((x) => x !== 0)).toBe(true)
    }
  })
})

const spec0 = { init: 'default', dora: false, dropout: 0 } as const

describe('the graph', () => {
  it('has a product over all tokens for each trained tensor and for nothing else', async () => {
    await using learning = await openLearning({ base: TINY, lora: { ...LORA, targetModules: ['q_proj', 'down_proj'] } })
    const { graph, trainable } = learning
    const overTokens = graph.nodes.filter(({ op, attributes }) => op === 'Gemm' && attributes.transA === 1)
    expect(trainable).toHaveLength(2 * 2 * 2)
    expect(overTokens).toHaveLength(trainable.length)
    const weights = new Set(graph.weights.map(({ name }) => name))
    expect(trainable.filter((name) => weights.has(name))).toEqual([])
    expect(graph.outputs.map(({ name }) => name)).toEqual([names.loss, ...trainable.map(names.gradient)])
  })

  it('with the gradient of a frozen weight is refused', async () => {
    await using learning = await openLearning({ base: TINY })
    const { graph, trainable } = learning
    const [weight] = graph.weights
    const output = names.gradient(weight?.name ?? '')
    const node = { op: 'Neg', name: output, inputs: [names.loss], outputs: [output], attributes: {} }
    expect(() => refuseFrozenGradients({ ...graph, nodes: [...graph.nodes, node] }, trainable)).toThrow(/frozen weight/)
  })

  it('gives the same from texts side by side in one row as from each alone', async () => {
    await using learning = await openLearning({
      base: join(import.meta.dirname, '../parity/oracle/decoders/mistral/base'),
    })
    const { parameters } = await started(learning)
    for (let i = 0; i < parameters.values.length; i += 1) parameters.values[i] = 0.3 * (random() - 0.5)
    const examples = [7, 12, 5].map((length) => exampleOf(length, 43))
    const alone = makeBatch(
      examples.map((one) => [one]),
      0.05,
      2,
    )
    const packed = makeBatch([examples], 0.05, 2)
    const [a, b] = [
      await learning.session.run({ ...parameters.feeds(), ...alone.feeds }),
      await learning.session.run({ ...parameters.feeds(), ...packed.feeds }),
    ]
    expect(Math.abs(loss(a) / loss(b) - 1)).toBeLessThan(1e-6)
    for (const name of learning.trainable) {
      const [x, y] = [a, b].map((results) => results[names.gradient(name)]?.data as Float32Array) as [
        Float32Array,
        Float32Array,
      ]
      const scale = norm(x)
      expect(distance(x, y)).toBeLessThan(1e-5 * scale + 1e-7)
    }
  })

  it('gives the same loss and gradients in any number of pieces', async () => {
    const rows = rowsOf(43)
    const runs = []
    for (const pieces of [1, 3]) {
      await using learning = await openLearning({ base: TINY, pieces })
      const { parameters } = await started(learning)
      runs.push(await learning.session.run({ ...parameters.feeds(), ...makeBatch(rows, 0.1, pieces).feeds }))
    }
    const [one, three] = runs as [Feeds, Feeds]
    expect(Math.abs(loss(one) / loss(three) - 1)).toBeLessThan(1e-6)
    for (const name of Object.keys(one)) {
      const [x, y] = [one, three].map((results) => results[name]?.data as Float32Array) as [Float32Array, Float32Array]
      expect(distance(x, y)).toBeLessThanOrEqual(1e-5 * norm(x))
    }
  })
})

const quantise = (more: Partial<QuantiseOptions>): QuantiseOptions => ({
  method: 'int4',
  block: 32,
  grid: 'symmetric',
  rounding: 'rtn',
  keep: [],
  eight: [],
  ...more,
})

describe.each([
  ['int8', quantise({ method: 'int8' }), 0.01],
  ['int4', quantise({}), 0.15],
  ['int4, a zero point a block', quantise({ grid: 'asymmetric' }), 0.15],
  ['int4, any offset a block', quantise({ grid: 'affine' }), 0.15],
  ['nf4', quantise({ method: 'nf4', block: 64 }), 0.15],
  ['fp16', quantise({ method: 'fp16' }), 1e-3],
] as const)('a base in %s', (_, options, bound) => {
  const modules = [0, 3].flatMap((layer) =>
    ['self_attn.q_proj', 'mlp.down_proj'].map((name) => `model.layers.${layer}.${name}`),
  )

  it('is unpacked to the weights that its quantiser meant, and never kept as floats', async () => {
    await using learning = await openLearning({
      base: DEMO,
      lora: { ...LORA, targetModules: ['q_proj'] },
      quantise: options,
    })
    for (const module of modules) {
      const weight = linearWeight(module)
      const parts = learning.plan.filter(({ name }) => name.startsWith(`${weight}_`))
      const w = new GraphWriter({ name: 'unpack', inputs: [], outputs: [], constants: [], weights: parts, nodes: [] })
      const unpack = unpackWeight(w, weight)
      const matrix = unpack?.(w.input('x', 'float32', ['n'])) as string
      w.output(matrix)
      await writeFile(join(learning.path, 'unpack.onnx'), encodeModel(w.build()))
      const session = await openSession(join(learning.path, 'unpack.onnx'), { threads: 1 })
      const found = (await session.run({ x: { data: new Float32Array(3), dims: [3] } }))[matrix]
      await session.release()
      const wanted = await readWeight(learning.checkpoint, module)
      const error = distance(wanted, found?.data as Float32Array) / norm(wanted)
      expect(error).toBeLessThan(bound)
      // The demo's weights are halves, so fp16 keeps them as they are.
      if (options.method !== 'fp16') expect(error).toBeGreaterThan(bound / 100)
    }
    // ONNX Runtime would give each further reader a DequantizeLinear, and a float matrix, of its own.
    for (const { op, outputs } of learning.graph.nodes) {
      if (op !== 'DequantizeLinear') continue
      expect(learning.graph.nodes.filter(({ inputs }) => inputs.includes(outputs[0] ?? ''))).toHaveLength(1)
    }
    // A float copy would be a weight or a constant: there is none of a linear's size.
    const linears = learning.checkpoint.config.architecture.hiddenSize ** 2
    const floats = [...learning.graph.weights, ...learning.graph.constants].filter(
      (tensor) => !('type' in tensor && tensor.type !== undefined) && tensor.name.includes('proj'),
    )
    expect(floats.filter(({ dims }) => dims.reduce((a, b) => a * b, 1) >= linears / 8)).toEqual([])
  })

  it('has gradients near those of the float base', async () => {
    const rows = rowsOf(2048)
    const { feeds } = makeBatch(rows, 1 / 15, 2)
    const gradients: Feeds[] = []
    for (const stored of [undefined, options]) {
      for (const recompute of stored === undefined ? [false] : [false, true]) {
        await using learning = await openLearning({ base: DEMO, recompute, ...(stored && { quantise: stored }) })
        const { parameters } = await started(learning)
        gradients.push(await learning.session.run({ ...parameters.feeds(), ...feeds }))
      }
    }
    const flat = (results: Feeds) =>
      Object.keys(results)
        .filter((name) => name.includes('lora_B'))
        .sort()
        .flatMap((name) => Array.from(results[name]?.data as Float32Array))
    const [float, packed, again] = gradients.map(flat) as [number[], number[], number[]]
    const dot = (a: readonly number[], b: readonly number[]) => a.reduce((sum, x, at) => sum + x * (b[at] as number), 0)
    const cosine = dot(float, packed) / Math.sqrt(dot(float, float) * dot(packed, packed))
    expect(cosine).toBeGreaterThan(1 - 3 * bound)
    expect(distance(packed, again)).toBeLessThan(1e-5 * norm(packed))
  })
})
