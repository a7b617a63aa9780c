// Verification: what it passes, and that it finds what was put wrong by hand, with the name and by how much.
import { cp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { graphFolder, verifyHost } from '../../cli/graph-folder.ts'
import type { Verification } from '../../compiler/verify/findings.ts'
import type { Sources } from '../../compiler/verify/sources.ts'
import { verify } from '../../compiler/verify/verify.ts'
import { openFolder } from '../../runtime/disk.ts'
import { expectRefusal } from '../compiler/failing.ts'
import { compileToDisk, TINY } from '../compiler/folders.ts'
import { temporaryFolder } from '../e2e/running.ts'
import { model, node } from '../inspect/onnx-bytes.ts'
import { flipByte, forgeAdapter, mapTensor, readManifest, replaceFile } from './sabotage.ts'

const base = openFolder(join(TINY, 'base'))
const adapter = (name: string, weight = 1) => ({ name, folder: openFolder(join(TINY, name)), weight })
const sources: Sources = { base, adapters: [adapter('a'), adapter('b')] }

let folder: Awaited<ReturnType<typeof temporaryFolder>>
/** Folders of untouched artifacts. */
const pristine: Record<string, string> = {}

beforeAll(async () => {
  folder = await temporaryFolder()
  for (const [name, target, weights] of [
    ['routed', 'routed', [1, 1]],
    ['stacked', 'stacked', [0.7, -0.3]],
    ['merged', 'merged', [0.7, -0.3]],
  ] as const) {
    const adapters = [adapter('a', weights[0]), adapter('b', weights[1])]
    await using made = await compileToDisk({ base, adapters, target })
    pristine[name] = join(folder.path, name)
    await cp(made.path, pristine[name], { recursive: true })
  }
})
afterAll(() => folder.remove())

const run = (path: string, given?: Sources, seed?: number) =>
  verify(
    {
      artifact: graphFolder(path),
      ...(given === undefined ? {} : { sources: given }),
      ...(seed === undefined ? {} : { seed }),
    },
    verifyHost(folder.path),
  )

/** A copy of an artifact, spoiled. */
async function spoiled(name: string, spoil: (path: string) => Promise<void>): Promise<string> {
  const path = join(folder.path, `spoiled-${name}`)
  await rm(path, { recursive: true, force: true })
  await cp(pristine[name]!, path, { recursive: true })
  await spoil(path)
  return path
}

const lines = ({ comparisons }: Verification) =>
  comparisons.map(({ subject, form, against, graph, ok }) => [subject, form, against, graph, ok].join(' '))

describe('an untouched artifact passes', () => {
  it('routed: each adapter on both graphs against its merged form', async () => {
    const found = await run(pristine.routed!)
    expect(found).toMatchObject({ ok: true, problems: [], notes: [], target: 'routed', files: 8 })
    expect(lines(found)).toEqual([
      'base base model.onnx engine.onnx true',
      'base base model.onnx engine-base.onnx true',
      'a routed merged model.onnx true',
      'a routed merged engine.onnx true',
      'a routed merged engine-shared.onnx true',
      'b routed merged model.onnx true',
      'b routed merged engine.onnx true',
      'b routed merged engine-shared.onnx true',
    ])
    expect(found.effects.map(({ subject, effect }) => [subject, effect])).toEqual([
      ['a', 'clear'],
      ['b', 'clear'],
    ])
  })

  it('stacked: each adapter alone and all together, against the sources', async () => {
    const found = await run(pristine.stacked!, sources)
    expect(found).toMatchObject({ ok: true, problems: [], notes: [] })
    expect(lines(found).slice(-2)).toEqual([
      'a*0.7 + b*-0.3 stacked merged model.onnx true',
      'a*0.7 + b*-0.3 stacked merged engine.onnx true',
    ])
  })

  it('merged: against a stack of the sources', async () => {
    const found = await run(pristine.merged!, sources)
    expect(found).toMatchObject({ ok: true, problems: [], notes: [] })
    expect(lines(found)).toContain('a*0.7 + b*-0.3 merged stacked engine.onnx true')
    expect(found.effects.map(({ subject }) => subject)).toEqual(['a*0.7 + b*-0.3', 'a', 'b'])
  })

  it('merged without sources: with a word on what was not checked', async () => {
    const found = await run(pristine.merged!)
    expect(found.ok).toBe(true)
    expect(found.notes).toEqual([expect.stringContaining('neither its base nor its adapters')])
  })

  it('without any adapter', async () => {
    await using made = await compileToDisk({ base, adapters: [], target: 'routed' })
    expect(await run(made.path, { base })).toMatchObject({ ok: true, effects: [] })
  })

  it('leaves no temporary folder behind', async () => {
    await using made = await compileToDisk({ base, adapters: [adapter('b')], target: 'routed' })
    const host = verifyHost(made.path)
    await verify({ artifact: graphFolder(made.path) }, host)
    expect((await readdir(made.path)).filter((name) => name.includes('verify'))).toEqual([])
  })
})

describe('the figures', () => {
  it('repeat with the seed and change with another', async () => {
    const [one, again, other] = [
      await run(pristine.routed!),
      await run(pristine.routed!),
      await run(pristine.routed!, {}, 2),
    ]
    expect(again).toEqual(one)
    expect(other.effects[0]!.meanError).not.toBe(one.effects[0]!.meanError)
  })

  it('stay at least an order of magnitude below their bounds', async () => {
    for (const path of Object.values(pristine)) {
      const { comparisons } = await run(path, sources)
      for (const { maxError, maxErrorBound, maxKl, maxKlBound } of comparisons) {
        expect(maxError).toBeLessThan(maxErrorBound / 10)
        expect(maxKl).toBeLessThan(maxKlBound / 10)
      }
    }
  })

  it('tell an adapter from the base by far more than the bound', async () => {
    const { effects, comparisons } = await run(pristine.routed!)
    const bound = Math.max(...comparisons.map(({ maxErrorBound }) => maxErrorBound))
    for (const { maxError } of effects) expect(maxError).toBeGreaterThan(1000 * bound)
  })
})

describe('a damaged file is named', () => {
  it.each([
    ['model.onnx_data', 1000],
    ['model.onnx_data', -1],
    ['model.onnx', 40],
    ['engine.onnx', -2],
  ])('%s, one bit at %i', async (file, at) => {
    const found = await run(await spoiled('routed', (path) => flipByte(join(path, file), at)))
    expect(found.ok).toBe(false)
    expect(found.problems).toEqual([expect.stringContaining(`"${file}"`)])
    expect(found.comparisons).toEqual([])
  })

  it('an adapter, one bit', async () => {
    const { adapters } = await readManifest(pristine.routed!)
    const file = adapters[1]!.file!
    const found = await run(await spoiled('routed', (path) => flipByte(join(path, file), -1)))
    expect(found.problems).toEqual([expect.stringContaining(file)])
  })

  it('a manifest that was edited is not an artifact', async () => {
    const path = await spoiled('routed', (spoil) => flipByte(join(spoil, 'manifest.json'), -2))
    await expectRefusal(() => run(path), 'artifact-invalid')
  })

  it('an adapter whose digest the manifest gives wrong', async () => {
    const [a, b] = (await readManifest(pristine.routed!)).adapters
    const path = await spoiled('routed', async (spoil) => {
      const bytes = await readFile(join(spoil, 'manifest.json'), 'utf8')
      // The two digests change places in the entries only; the files stay.
      const swapped = bytes.replace(`"digest":"${a!.digest}"`, '"digest":"?"').replace(b!.digest, a!.digest)
      await writeFile(join(spoil, 'manifest.json'), swapped.replace('"digest":"?"', `"digest":"${b!.digest}"`))
    })
    expect((await run(path)).problems).toEqual([
      expect.stringContaining('adapter "a"'),
      expect.stringContaining('adapter "b"'),
    ])
  })
})

describe('an artifact that was forged whole', () => {
  const isB = (name: string) => name.endsWith('.lora_B')

  it.each([
    ['scaling applied twice', (value: number, s: number) => value * s],
    ['scaling left out', (value: number, s: number) => value / s],
    ['scaling off by a hundredth', (value: number) => value * 1.01],
    ['sign turned', (value: number) => -value],
  ])('%s: the sources name the adapter and by how much', async (_, change) => {
    for (const target of ['routed', 'stacked']) {
      const path = await spoiled(target, (spoil) =>
        forgeAdapter(spoil, 'a', (tensors, { adapters }) => {
          for (const [name, tensor] of tensors) {
            const { scaling } = adapters[0]!.modules[name.slice(0, -'.lora_A'.length)]!
            if (isB(name))
              tensors.set(
                name,
                mapTensor(tensor, (value) => change(value, scaling)),
              )
          }
        }),
      )
      // The artifact agrees with itself: that is all that it can prove.
      expect((await run(path)).problems).toEqual([])
      const found = await run(path, sources)
      const about = found.problems.filter((problem) => problem.startsWith('"a"'))
      const graphs = ['model.onnx', 'engine.onnx', ...(target === 'routed' ? ['engine-shared.onnx'] : [])]
      expect(about.map((problem) => / on (\S+):/.exec(problem)?.[1])).toEqual(graphs)
      expect(Number(/ is [\d.e+-]+, ([\d.e+]+) times the bound/.exec(about[0]!)?.[1])).toBeGreaterThan(10)
      expect(found.problems.some((problem) => problem.startsWith('"b"'))).toBe(false)
    }
  })

  it('one module of two layers exchanged', async () => {
    const path = await spoiled('routed', (spoil) =>
      forgeAdapter(spoil, 'b', (tensors) => {
        const [one, other] = [0, 1].map((layer) => `model.layers.${layer}.self_attn.v_proj.lora_B`)
        const kept = tensors.get(one!)!
        tensors.set(one!, tensors.get(other!)!)
        tensors.set(other!, kept)
      }),
    )
    expect((await run(path, sources)).problems.join()).toMatch(/^"b": routed against merged/)
  })

  it('an adapter of zeros does nothing, which needs no source to be seen', async () => {
    const path = await spoiled('routed', (spoil) =>
      forgeAdapter(spoil, 'b', (tensors) => {
        for (const [name, tensor] of tensors)
          if (isB(name))
            tensors.set(
              name,
              mapTensor(tensor, () => 0),
            )
      }),
    )
    const { problems, effects } = await run(path)
    expect(problems).toEqual([expect.stringMatching(/^"b": .*does nothing/)])
    expect(effects.map(({ effect }) => effect)).toEqual(['clear', 'none'])
  })

  it('an adapter too small for fp32 is noted, not refused', async () => {
    const path = await spoiled('routed', (spoil) =>
      forgeAdapter(spoil, 'b', (tensors) => {
        for (const [name, tensor] of tensors)
          if (isB(name))
            tensors.set(
              name,
              mapTensor(tensor, (value) => value * 1e-7),
            )
      }),
    )
    const { ok, notes, effects } = await run(path)
    expect(ok).toBe(true)
    expect(effects[1]!.effect).toBe('weak')
    expect(notes).toEqual([expect.stringContaining('"b"')])
  })

  it('one weight of the base: the base’s folder names the data file', async () => {
    const path = await spoiled('routed', async (spoil) => {
      const data = await readFile(join(spoil, 'model.onnx_data'))
      data[1001]! ^= 1
      await replaceFile(spoil, 'model.onnx_data', data)
    })
    expect((await run(path)).ok).toBe(true)
    expect((await run(path, { base })).problems).toEqual([expect.stringContaining('model.onnx_data')])
  })

  it('a merged weight: the sources name it', async () => {
    const path = await spoiled('merged', async (spoil) => {
      const data = await readFile(join(spoil, 'model.onnx_data'))
      const values = new Float32Array(data.buffer, data.byteOffset, data.length / 4)
      for (let i = 5000; i < 5100; i += 1) values[i]! *= 1.1
      await replaceFile(spoil, 'model.onnx_data', data)
    })
    expect((await run(path, sources)).problems[0]).toMatch(/merged against stacked on model.onnx/)
  })

  it('an engine without the low-rank path: its graph is named', async () => {
    const plain = await readFile(join(pristine.merged!, 'engine.onnx'))
    const path = await spoiled('routed', (spoil) => replaceFile(spoil, 'engine.onnx', plain))
    const problems = await run(path).then(
      (found) => found.problems.join('\n'),
      (error: Error) => error.message,
    )
    expect(problems).toContain('engine.onnx')
  })

  it('a graph that is none', async () => {
    const path = await spoiled('routed', (spoil) => replaceFile(spoil, 'engine.onnx', new Uint8Array(100).fill(7)))
    expect((await run(path)).problems).toEqual([expect.stringContaining('engine.onnx: at byte')])
  })

  it('a graph that the runtime does not know', async () => {
    const unknown = model([1, node('NoSuchOperator', [], ['y'])])
    const path = await spoiled('routed', (spoil) => replaceFile(spoil, 'engine.onnx', new Uint8Array(unknown)))
    await expectRefusal(() => run(path), 'artifact-invalid', 'engine.onnx', 'cannot be opened')
  })

  it('another base than the one that is given', async () => {
    const other = openFolder(join(import.meta.dirname, '../../examples/demo/base'))
    expect((await run(pristine.routed!, { base: other })).problems).toEqual([expect.stringContaining('its digest is')])
  })

  it('a source that the artifact has no adapter for', async () => {
    await expectRefusal(() => run(pristine.routed!, { adapters: [adapter('c')] }), 'adapter-name', '"c"', 'a, b')
  })
})
