// Verification of encoders: what passes, what is found, and which verbs refuse an encoder.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { graphFolder, verifyHost } from '../../cli/graph-folder.ts'
import type { Folder } from '../../compiler/host.ts'
import { verify } from '../../compiler/verify/verify.ts'
import { serve } from '../../gpu-backend/serve.ts'
import { openFolder } from '../../runtime/disk.ts'
import { sidepath, temporaryFolder } from '../e2e/running.ts'
import { flipByte } from '../verify/sabotage.ts'
import { compileToDisk, TINY_NAMES, type TinyName, tinyAdapter, tinyPath, withFiles } from './encoders.ts'

let folder: Awaited<ReturnType<typeof temporaryFolder>>
beforeAll(async () => {
  folder = await temporaryFolder()
})
afterAll(() => folder.remove())

const sourcesOf = (name: TinyName, adapters: readonly string[], change?: (folder: Folder) => Folder) => ({
  base: openFolder(tinyPath(name)),
  adapters: adapters.map((adapter) => {
    const source = openFolder(join(tinyPath(name), 'adapters', adapter))
    return { name: adapter, folder: change?.(source) ?? source }
  }),
})

const run = (path: string, sources = {}) => verify({ artifact: graphFolder(path), sources }, verifyHost(folder.path))

describe.each(TINY_NAMES)('%s', (name) => {
  const base = openFolder(tinyPath(name))

  it('passes, routed and stacked and merged, against its sources', async () => {
    for (const [target, adapters] of [
      ['routed', ['narrow', 'wide']],
      ['stacked', ['wide']],
      ['merged', ['wide']],
    ] as const) {
      const inputs = adapters.map((adapter) => tinyAdapter(name, adapter))
      await using made = await compileToDisk(base, inputs, target)
      const { problems, notes, comparisons, effects } = await run(made.path, sourcesOf(name, adapters))
      expect({ problems, notes }).toEqual({ problems: [], notes: [] })
      expect(comparisons).toHaveLength(made.manifest.outputs.length * (adapters.length + 1))
      expect(effects.map(({ effect }) => effect)).toEqual(adapters.map(() => 'clear'))
    }
  })

  it('fails where the artifact was made with another scaling than the source says', async () => {
    await using made = await compileToDisk(base, [tinyAdapter(name, 'narrow')], 'routed')
    const settings = JSON.parse(await readFile(join(tinyPath(name), 'adapters/narrow/adapter_config.json'), 'utf8'))
    const scaled = JSON.stringify({ ...settings, lora_alpha: settings.lora_alpha * 1.01 })
    const sources = sourcesOf(name, ['narrow'], (source) => withFiles(source, { 'adapter_config.json': scaled }))
    const { ok, problems } = await run(made.path, sources)
    expect(ok).toBe(false)
    expect(problems[0]).toContain('"narrow": routed against merged')
  })
})

describe('a broken artifact', () => {
  it('is found by its hashes before anything runs', async () => {
    await using made = await compileToDisk(openFolder(tinyPath('bert')), [], 'routed')
    await flipByte(join(made.path, 'model.onnx_data'), 100)
    const { ok, problems, comparisons } = await run(made.path)
    expect({ ok, comparisons: comparisons.length }).toEqual({ ok: false, comparisons: 0 })
    expect(problems[0]).toContain('model.onnx_data')
  })

  it('of another base is found where the base is given', async () => {
    await using made = await compileToDisk(openFolder(tinyPath('bert')), [], 'routed')
    const { problems } = await run(made.path, { base: openFolder(tinyPath('modernbert')) })
    expect(problems[0]).toContain('its digest is')
  })
})

describe('on the command line', () => {
  const compiled = () => join(folder.path, 'artifact')
  beforeAll(async () => {
    const at = tinyPath('bert-classifier')
    const adapter = join(at, 'adapters', 'wide')
    const { code, stderr } = await sidepath([
      'compile',
      '--base',
      at,
      '--adapter',
      `wide=${adapter}`,
      '--out',
      compiled(),
    ])
    expect(code, stderr).toBe(0)
  })

  it('compile leaves the figures of its verification, which inspect shows', async () => {
    const { code, stdout } = await sidepath(['inspect', compiled(), '--json'])
    expect(code).toBe(0)
    const { facts } = JSON.parse(stdout)
    expect(facts).toMatchObject({ family: 'bert', task: 'classification', labels: ['calm', 'urgent', 'angry'] })
    expect(facts.verified).toMatch(/^yes/)
  })

  it('combine adds adapters of an encoder, and verify takes the sum', async () => {
    const at = tinyPath('modernbert')
    const [sum, artifact] = [join(folder.path, 'sum'), join(folder.path, 'of-sum')]
    const adapters = ['narrow*0.5', 'wide'].flatMap((spec) => [
      '--adapter',
      `${spec}=${join(at, 'adapters', spec.replace('*0.5', ''))}`,
    ])
    const combined = await sidepath(['combine', '--base', at, ...adapters, '--out', sum])
    expect(combined.code, combined.stderr).toBe(0)
    const made = await sidepath(['compile', '--base', at, '--adapter', `sum=${sum}`, '--out', artifact])
    expect(made.code, made.stderr).toBe(0)
  })

  it('a stacked encoder feeds ONNX Runtime as an .onnx_adapter file', async () => {
    const at = tinyPath('bert')
    const [stack, file] = [join(folder.path, 'stack'), join(folder.path, 'wide.onnx_adapter')]
    const adapter = `wide=${join(at, 'adapters', 'wide')}`
    const made = await sidepath(['compile', '--base', at, '--target', 'stacked', '--adapter', adapter, '--out', stack])
    expect(made.code, made.stderr).toBe(0)
    const { code, stdout, stderr } = await sidepath(['export', '--artifact', stack, '--out', file, '--json'])
    expect(code, stderr).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({ adapter: 'wide', modules: 13 })
  })

  it('score refuses an encoder in a sentence', async () => {
    const { code, stderr } = await sidepath(['score', '--artifact', compiled(), '--text', 'hi'])
    expect(code).toBe(1)
    expect(stderr).toContain('is an encoder (bert, for classification), which generates no text')
  })

  it('the backend refuses an encoder when it starts', async () => {
    const started = serve({ artifact: compiled(), secret: 'x'.repeat(40), port: 0, log: () => {} })
    await expect(started).rejects.toMatchObject({
      code: 'artifact_unsuitable',
      message: expect.stringContaining('encoder'),
    })
  })
})
