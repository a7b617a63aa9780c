// The stacked target: its graph by structure, its numbers against PEFT and against the sum in fp64.
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { graphFolder } from '../../cli/graph-folder.ts'
import type { AdapterModule } from '../../compiler/adapter/read.ts'
import { readAdapterFolder } from '../../compiler/adapter/read.ts'
import { layerLinears } from '../../compiler/checkpoint/names.ts'
import { compile } from '../../compiler/compile.ts'
import { readHeader } from '../../compiler/safetensors/read.ts'
import { type FloatTensorSource, readFloats } from '../../compiler/safetensors/stream.ts'
import { Graphs } from '../../compiler/verify/graphs.ts'
import { stackOf } from '../../compiler/verify/side-path.ts'
import { wholeStack } from '../../compiler/verify/subjects.ts'
import { nodeHost, openFolder } from '../../runtime/disk.ts'
import { expectRefusal } from '../compiler/failing.ts'
import { type Compiled, compileToDisk, memoryOut, memorySource, TINY } from '../compiler/folders.ts'
import { parseOnnx } from '../compiler/onnx-file.ts'
import { maxError } from '../compiler/runner.ts'
import { type Oracle, readOracle } from '../parity/oracle.ts'

const TOLERANCE = 1e-4
const base = openFolder(join(TINY, 'base'))
const adapter = (name: string, weight = 1) => ({ name, folder: openFolder(join(TINY, name)), weight })
const stack = (...adapters: ReturnType<typeof adapter>[]) => ({ base, adapters, target: 'stacked' as const })

async function inMemory(...adapters: ReturnType<typeof adapter>[]) {
  const out = memoryOut()
  return { ...(await compile(stack(...adapters), out, nodeHost)), files: out.files }
}

let oracle: Oracle
beforeAll(async () => {
  oracle = await readOracle('tiny')
})

/** Logits of every prompt on both graphs, with what the artifact carries, or as the base. */
async function logitsOf({ path, manifest }: Pick<Compiled, 'path' | 'manifest'>, as: 'stack' | 'base') {
  const place = graphFolder(path)
  const modules = as === 'base' ? new Map() : (await wholeStack(place.folder, manifest)).modules
  const probes = oracle.prompts.map((ids) => ({ ids, positions: ids.map((_, at) => at) }))
  const { model, engine } = await Graphs.with(place, manifest, (graphs) =>
    graphs.run(probes, stackOf(manifest, modules)),
  )
  return [model[0]!, engine[0]!]
}

describe('the graph of a stack', () => {
  it('has one pair of factors a linear, however many adapters there are', async () => {
    const { manifest, files } = await inMemory(adapter('a', 0.7), adapter('b', 0.3))
    const { inputs, nodes } = parseOnnx(files.get('model.onnx')!)
    const low = Object.entries(inputs).filter(([name]) => name.includes('lora_'))
    expect(low).toHaveLength(2 * manifest.stack!.length)
    expect(inputs['model.layers.0.mlp.down_proj.lora_A.weight']?.shape).toEqual([
      72,
      'model.layers.0.mlp.down_proj.rank',
    ])
    expect(inputs['model.layers.0.mlp.down_proj.lora_B.weight']?.shape).toEqual([
      'model.layers.0.mlp.down_proj.rank',
      48,
    ])
    expect(nodes.filter(({ name }) => name.startsWith('model.layers.0.mlp.down_proj.')).map(({ op }) => op)).toEqual([
      'MatMul',
      'MatMul',
      'MatMul',
      'Add',
    ])
    expect(manifest.bank).toEqual([])
  })

  it('has a side path only where some adapter has a module', async () => {
    const { manifest, files } = await inMemory(adapter('b'))
    const modules = manifest.stack!.map(({ module }) => module)
    expect(modules).toEqual(
      [0, 1].flatMap((layer) => [
        `model.layers.${layer}.self_attn.q_proj`,
        `model.layers.${layer}.self_attn.v_proj`,
        `model.layers.${layer}.mlp.down_proj`,
      ]),
    )
    const { inputs } = parseOnnx(files.get('engine.onnx')!)
    expect(Object.keys(inputs).filter((name) => name.includes('o_proj'))).toEqual([])
  })

  it('does not depend on weights or on which adapters have those modules', async () => {
    const [one, two] = [await inMemory(adapter('a')), await inMemory(adapter('a', -3), adapter('b', 0.5))]
    for (const path of ['model.onnx', 'engine.onnx', 'model.onnx_data']) {
      expect(Buffer.compare(one.files.get(path)!, two.files.get(path)!)).toBe(0)
    }
  })

  it('keeps the weights of the base, byte for byte', async () => {
    const routed = memoryOut()
    await compile({ base, adapters: [], target: 'routed' }, routed, nodeHost)
    const { files } = await inMemory(adapter('a', 2))
    expect(Buffer.compare(files.get('model.onnx_data')!, routed.files.get('model.onnx_data')!)).toBe(0)
  })
})

describe('the files of a stack', () => {
  it('are those of a routed artifact where the weight is 1', async () => {
    const routed = memoryOut()
    const { manifest } = await compile({ base, adapters: [adapter('a')], target: 'routed' }, routed, nodeHost)
    const stacked = await inMemory(adapter('a'))
    expect(stacked.manifest.adapters).toEqual(manifest.adapters)
  })

  it('hold scaling times weight in B, rounded once', async () => {
    const weight = 0.7
    const { manifest, files } = await inMemory(adapter('b', weight))
    const { tensors } = await readHeader(memorySource('b', files.get(manifest.adapters[0]!.file!)!))
    const source = await readAdapterFolder('b', adapter('b').folder, layerLinears(manifest.base.architecture))
    for (const { linear, scaling, B } of source.modules) {
      const found = await readFloats(tensors.get(`${linear.module}.lora_B`) as FloatTensorSource)
      expect([...found]).toEqual([...B].map((value) => Math.fround(value * (scaling * weight))))
      expect(manifest.adapters[0]!.modules[linear.module]!.scaling).toBe(scaling * weight)
    }
  })

  it('are the same whatever the order of the adapters', async () => {
    const one = await inMemory(adapter('a', 0.7), adapter('b', 0.3))
    const other = await inMemory(adapter('b', 0.3), adapter('a', 0.7))
    expect(other.id).toBe(one.id)
  })
})

describe('one adapter at weight 1', () => {
  it.each(['a', 'b'])(
    'gives the logits of PEFT for %s, and of transformers without it, on both graphs',
    async (name) => {
      await using artifact = await compileToDisk(stack(adapter(name)))
      for (const [form, variant] of [
        ['stack', name],
        ['base', 'base'],
      ] as const) {
        for (const logits of await logitsOf(artifact, form)) {
          for (const prompt of oracle.prompts.keys())
            expect(apart(logits[prompt]!, `${variant}/p${prompt}`)).toBeLessThan(TOLERANCE)
        }
      }
    },
  )
})

const apart = (logits: Float32Array, key: string) => {
  const rows = oracle.rows(key)
  const size = logits.length / rows.length
  return maxError(
    rows.map((_, at) => logits.subarray(at * size, (at + 1) * size)),
    rows,
  )
}

describe('two adapters at 0.7 and -0.3', () => {
  let artifact: Compiled
  beforeAll(async () => {
    artifact = await compileToDisk(stack(adapter('a', 0.7), adapter('b', -0.3)))
  })
  afterAll(() => artifact[Symbol.asyncDispose]())

  it('give the sum of the deltas in fp64, module by module', async () => {
    const { modules } = await wholeStack(openFolder(artifact.path), artifact.manifest)
    const linears = layerLinears(artifact.manifest.base.architecture)
    const sources = [
      { weight: 0.7, adapter: await readAdapterFolder('a', adapter('a').folder, linears) },
      { weight: -0.3, adapter: await readAdapterFolder('b', adapter('b').folder, linears) },
    ]
    for (const { module, in: inSize, out } of artifact.manifest.stack!) {
      const expected = new Float64Array(inSize * out)
      for (const { weight, adapter: source } of sources) {
        const found = source.modules.find(({ linear }) => linear.module === module)
        if (found !== undefined) addDelta(expected, weight, found, out)
      }
      const { r, A, B } = modules.get(module)!
      const mixed = new Float64Array(inSize * out)
      addDelta(mixed, 1, { r, A, B, scaling: 1 }, out)
      const magnitude = Math.max(...expected.map(Math.abs))
      for (const [i, value] of expected.entries()) expect(Math.abs(mixed[i]! - value)).toBeLessThan(1e-6 * magnitude)
    }
  })

  it('give the logits of both merged at those weights, on both graphs', async () => {
    await using merged = await compileToDisk({ ...stack(adapter('a', 0.7), adapter('b', -0.3)), target: 'merged' })
    const expected = await logitsOf({ path: merged.path, manifest: merged.manifest }, 'base')
    const found = await logitsOf(artifact, 'stack')
    const plain = await logitsOf(artifact, 'base')
    for (const [graph, logits] of found.entries()) {
      expect(maxError(logits, expected[graph]!)).toBeLessThan(TOLERANCE)
      expect(maxError(logits, plain[graph]!)).toBeGreaterThan(0.1)
    }
  })
})

function addDelta(
  sum: Float64Array,
  weight: number,
  { r, A, B, scaling }: Pick<AdapterModule, 'r' | 'A' | 'B' | 'scaling'>,
  out: number,
): void {
  for (let i = 0; i < sum.length / out; i += 1) {
    for (let o = 0; o < out; o += 1) {
      let dot = 0
      for (let k = 0; k < r; k += 1) dot += A[i * r + k]! * B[k * out + o]!
      sum[i * out + o]! += weight * scaling * dot
    }
  }
}

describe('a stack is refused', () => {
  const compileNothing = (...adapters: ReturnType<typeof adapter>[]) => {
    const out = memoryOut()
    return compile(stack(...adapters), out, nodeHost).finally(() => expect(out.files.size).toBe(0))
  }

  it('without adapters', async () => {
    await expectRefusal(() => compileNothing(), 'adapter-name', 'at least one')
  })

  it.each([0, Number.NaN, Number.POSITIVE_INFINITY])('at the weight %s', async (weight) => {
    await expectRefusal(() => compileNothing(adapter('a', weight)), 'adapter-weight', '"a"', String(weight))
  })

  it('where a name is given twice', async () => {
    await expectRefusal(() => compileNothing(adapter('a'), adapter('a', 2)), 'adapter-name', 'twice')
  })
})
