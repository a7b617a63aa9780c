// What surgery makes is run beside the original: agreement on real exports, and what is found out when it does not agree.
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { gunzipSync } from 'node:zlib'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { probeHost } from '../../cli/graph-folder.ts'
import type { Folder } from '../../compiler/host.ts'
import { readGraph } from '../../compiler/onnx/read-graph.ts'
import { operate, type SurgeryReport } from '../../compiler/surgery/operate.ts'
import type { ProbeFeeds, ProbeHost } from '../../compiler/surgery/probe-session.ts'
import { nodeHost, openFolder, stageFolder } from '../../runtime/disk.ts'
import { adapterFolder, exported } from './exports.ts'

type Target = SurgeryReport['target']
const EXPORTERS = join(import.meta.dirname, '../parity/oracle/exporters')
const exporters = (name: string) => new Uint8Array(gunzipSync(readFileSync(join(EXPORTERS, `${name}.onnx.gz`))))
const TARGETS: readonly Target[] = ['routed', 'stacked', 'merged']

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sidepath-verify-surgery-'))
})
afterEach(() => rm(folder, { recursive: true, force: true }))

type Files = Readonly<Record<string, Uint8Array>>
type Sabotage = (host: ProbeHost) => ProbeHost

async function verified(files: Files, target: Target, adapter: Folder, sabotage: Sabotage = (host) => host) {
  await mkdir(join(folder, 'original'))
  for (const [name, bytes] of Object.entries(files)) await writeFile(join(folder, 'original', name), bytes)
  const staged = await stageFolder(join(folder, 'made'))
  const host = sabotage(probeHost(join(folder, 'original'), staged.path, folder))
  const report = await operate(
    {
      base: openFolder(join(folder, 'original')),
      files: Object.keys(files).filter((name) => name.endsWith('.onnx')),
      adapters: [{ name: 'tuned', folder: adapter }],
      target,
    },
    staged,
    nodeHost,
    host,
  )
  return report.verification!
}

const FLOATS = [
  ['torchscript', { 'torchscript.onnx': exported('torchscript.onnx') }, adapterFolder()],
  ['dynamo', { 'dynamo.onnx': exported('dynamo.onnx') }, adapterFolder()],
  [
    'external',
    { 'external.onnx': exported('external.onnx'), 'external.onnx_data': exported('external.onnx_data') },
    adapterFolder(),
  ],
  ...['optimum-llama', 'optimum-phi3', 'genai-llama-fp32'].flatMap((name) =>
    ['whole', 'part', 'fused'].map(
      (adapter) =>
        [`${name}, ${adapter}`, { 'model.onnx': exporters(name) }, openFolder(join(EXPORTERS, adapter))] as const,
    ),
  ),
] as const
const CODES = ['optimum-llama-q4', 'optimum-llama-qdq4', 'optimum-llama-qdq8', 'genai-llama-int4', 'optimum-llama-bnb4']

describe.each(FLOATS)('%s', (_, files, adapter) => {
  it.each(TARGETS)('%s agrees with its sources, and without an adapter to the bit', async (target) => {
    const { checks, notes, probes } = await verified(files, target, adapter)
    expect(notes).toEqual([])
    expect(probes.length).toBeGreaterThan(0)
    expect(checks.map(({ ok }) => ok)).not.toContain(false)
    const tuned = checks.filter(({ against }) => against !== 'original')
    expect(tuned.length).toBe(target === 'routed' ? 2 : 1)
    for (const { maxError, bound, effect } of tuned) {
      expect(bound).toBeGreaterThan(0)
      expect(maxError).toBeLessThan(bound)
      // The bound tells the adapter from the base by far.
      expect(effect).toBeGreaterThan(50 * bound)
    }
    const plain = checks.filter(({ against }) => against === 'original')
    expect(plain.map(({ maxError, bound }) => [maxError, bound])).toEqual(target === 'merged' ? [] : [[0, 0]])
  })
})

describe.each(CODES)('%s', (name) => {
  it.each(TARGETS.filter((target) => target !== 'merged' || !name.endsWith('bnb4')))(
    '%s agrees with its sources',
    async (target) => {
      const { checks } = await verified({ 'model.onnx': exporters(name) }, target, openFolder(join(EXPORTERS, 'whole')))
      expect(checks.map(({ ok }) => ok)).not.toContain(false)
      for (const { against, maxError, bound } of checks) {
        if (against === 'original') expect([maxError, bound]).toEqual([0, 0])
        // Beside codes the path is in float32: where no operator rounds its activations, so is the bound.
        else if (target !== 'merged' && !name.includes('qdq')) expect(bound).toBeLessThan(1e-3)
        else expect(maxError).toBeGreaterThan(0)
      }
    },
  )
})

describe('optimum-llama-fp16', () => {
  it.each(['routed', 'stacked'] as const)('%s agrees with its sources, in halves', async (target) => {
    const { checks, notes } = await verified(
      { 'model.onnx': exporters('optimum-llama-fp16') },
      target,
      openFolder(join(EXPORTERS, 'whole')),
    )
    expect(notes).toEqual([])
    const [plain, tuned] = checks
    expect(plain).toMatchObject({ against: 'original', maxError: 0, bound: 0 })
    expect(tuned?.maxError).toBeLessThan(tuned?.bound ?? 0)
    expect(tuned?.effect).toBeGreaterThan(10 * (tuned?.bound ?? 0))
  })
})

describe('what disagrees is refused, and what was compared is said', () => {
  const files = { 'torchscript.onnx': exported('torchscript.onnx') }

  /** Sessions whose outputs pass through `change`. */
  const tampered =
    (which: 'made' | 'original', change: (data: Float32Array, feeds: ProbeFeeds) => void): Sabotage =>
    (host) => ({
      ...host,
      [which]: {
        ...host[which],
        async openGraph(path: string) {
          const session = await host[which].openGraph(path)
          return {
            release: () => session.release(),
            async run(feeds: ProbeFeeds) {
              const results = await session.run(feeds)
              change(results.logits?.data as Float32Array, feeds)
              return results
            },
          }
        },
      },
    })
  const nudge = (by: number) => (data: Float32Array) => {
    data[0] = (data[0] as number) + by
  }

  it('a bit of the base', async () => {
    const off = verified(files, 'routed', adapterFolder(), tampered('made', nudge(1e-6)))
    await expect(off).rejects.toThrow(/"base", routed differs from the original by .*"logits"; nothing may differ/)
  })

  it('an adapter that is off by more than rounding', async () => {
    const off = verified(files, 'merged', adapterFolder(), tampered('made', nudge(1e-3)))
    await expect(off).rejects.toThrow(/"tuned", merged differs from the original \+ dense delta .* the bound is/)
  })

  it('a row that takes the slot of another', async () => {
    const swap = (data: Float32Array, feeds: ProbeFeeds) => {
      const [first, second] = (feeds.adapter_slots?.data ?? []) as BigInt64Array
      const half = data.length / 2
      if (first !== second) data.set(data.slice().subarray(half), 0)
    }
    const off = verified(files, 'routed', adapterFolder(), tampered('made', swap))
    await expect(off).rejects.toThrow(/"base \| tuned", routed, a row each differs/)
  })

  it('an original that does not run, or gives NaN: refused with the way out', async () => {
    const nan = verified(
      files,
      'stacked',
      adapterFolder(),
      tampered('original', (data) => data.fill(Number.NaN)),
    )
    await expect(nan).rejects.toMatchObject({ code: 'onnx-unprobed', message: expect.stringMatching(/--no-verify/) })
  })

  it('an input of a kind that nobody can make up', async () => {
    const text = Buffer.from(files['torchscript.onnx']).toString('latin1')
    // The element type of input_ids, int64 → uint32.
    const at = text.lastIndexOf('\n\tinput_ids\x12')
    const bytes = new Uint8Array(files['torchscript.onnx'])
    const type = bytes.indexOf(7, at + 12)
    expect(at).toBeGreaterThan(0)
    bytes[type] = 12
    const { summary } = readGraph(bytes, 'a.onnx')
    expect(summary.graph.inputs[0]).toMatchObject({ name: 'input_ids', type: 'uint32' })
    const off = verified({ 'torchscript.onnx': bytes }, 'stacked', adapterFolder())
    await expect(off).rejects.toMatchObject({
      code: 'onnx-unprobed',
      message: expect.stringMatching(/input_ids.* uint32/),
    })
  })
})

describe('the command', () => {
  const sidepath = (...args: string[]) =>
    promisify(execFile)(process.execPath, [join(import.meta.dirname, '../../cli/bin.js'), ...args])

  it('prints the figures and keeps them in surgery.json; --no-verify says that nothing was run', async () => {
    await writeFile(join(folder, 'model.onnx'), exported('torchscript.onnx'))
    const adapter = join(import.meta.dirname, '../parity/oracle/surgery/adapter')
    const given = ['--base', join(folder, 'model.onnx'), '--adapter', `tuned=${adapter}`, '--out']
    const { stdout } = await sidepath('compile', ...given, join(folder, 'routed'))
    expect(stdout).toMatch(/run against its sources on 2 made-up inputs/)
    const report = JSON.parse(readFileSync(join(folder, 'routed/surgery.json'), 'utf8'))
    expect(report.verification.checks).toHaveLength(3)
    expect(await readdir(join(folder, 'routed'))).toEqual(['adapters', 'model.onnx', 'surgery.json'])
    const silent = await sidepath('merge', ...given, join(folder, 'merged'), '--no-verify')
    expect(silent.stdout).toMatch(/not run against its sources, as asked/)
    expect(JSON.parse(readFileSync(join(folder, 'merged/surgery.json'), 'utf8')).verification).toBeUndefined()
    expect((await readdir(folder)).toSorted()).toEqual(['merged', 'model.onnx', 'routed'])
  })
})
