// The verbs on the command line: verify, compile and merge with their verification, inspect, export.
import { existsSync } from 'node:fs'
import { cp, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Verification } from '../../compiler/verify/findings.ts'
import { editRaw } from '../compiler/safetensors-file.ts'
import { sidepath, temporaryFolder } from '../e2e/running.ts'
import { flipByte, mapTensor, readManifest } from './sabotage.ts'

const TINY = join(import.meta.dirname, '../parity/oracle/tiny')
const base = join(TINY, 'base')
const a = join(TINY, 'a')
const b = join(TINY, 'b')

let folder: Awaited<ReturnType<typeof temporaryFolder>>
const at = (name: string) => join(folder.path, name)
beforeAll(async () => {
  folder = await temporaryFolder()
  for (const args of [
    ['compile', '--adapter', `a=${a}`, '--adapter', `b=${b}`, '--out', at('routed')],
    ['compile', '--target', 'stacked', '--adapter', `a*0.7=${a}`, '--adapter', `b*0.3=${b}`, '--out', at('stacked')],
    ['merge', '--adapter', `a*0.7=${a}`, '--adapter', `b*0.3=${b}`, '--out', at('merged')],
    ['compile', '--no-verify', '--adapter', `a=${a}`, '--adapter', `b=${b}`, '--out', at('unverified')],
  ]) {
    const { code, stderr } = await sidepath([...args, '--base', base])
    expect(code, stderr).toBe(0)
  }
})
afterAll(() => folder.remove())

describe('compile and merge', () => {
  it.each([
    ['routed', 8],
    ['stacked', 7],
    ['merged', 3],
  ])('leave the figures of %s beside the manifest, which does not cover them', async (name, comparisons) => {
    const figures: Verification = JSON.parse(await readFile(join(at(name), 'verification.json'), 'utf8'))
    expect(figures).toMatchObject({ ok: true, target: name, notes: [] })
    expect(figures.comparisons).toHaveLength(comparisons)
    const { files } = await readManifest(at(name))
    expect(files.map(({ path }) => path)).not.toContain('verification.json')
  })

  it('give the same artifact with and without verification', async () => {
    const manifest = (name: string) => readFile(join(at(name), 'manifest.json'))
    expect(Buffer.compare(await manifest('routed'), await manifest('unverified'))).toBe(0)
    expect(existsSync(join(at('unverified'), 'verification.json'))).toBe(false)
  })

  it('hash and run nothing with --verify files, which the figures say', async () => {
    const args = ['--base', base, '--adapter', `a=${a}`, '--adapter', `b=${b}`, '--quantize', 'int4', '--block', '16']
    const { code, stdout, stderr } = await sidepath(['compile', ...args, '--verify', 'files', '--out', at('hashed')])
    expect(code, stderr).toBe(0)
    expect(stdout).toMatch(/not measured: the graphs were not run/)
    expect(stdout).toMatch(/files hashed; the graphs were not run, as asked/)
    const figures: Verification = JSON.parse(await readFile(join(at('hashed'), 'verification.json'), 'utf8'))
    expect(figures).toMatchObject({ ok: true, comparisons: [], notes: [expect.stringContaining('were not run')] })
    const { code: whole } = await sidepath(['verify', at('hashed'), '--base', base])
    expect(whole).toBe(0)
  })

  it('emit nothing where the verification fails, and what was made where it is switched off', async () => {
    await cp(b, at('untrained'), { recursive: true })
    const path = join(at('untrained'), 'adapter_model.safetensors')
    const zeros = editRaw(await readFile(path), (tensors) => {
      for (const [name, tensor] of tensors)
        if (name.includes('lora_B'))
          tensors.set(
            name,
            mapTensor(tensor, () => 0),
          )
    })
    await writeFile(path, zeros)
    for (const verb of ['compile', 'merge']) {
      const args = [verb, '--base', base, '--adapter', at('untrained'), '--out', at(`${verb}-untrained`)]
      const { code, stdout, stderr } = await sidepath(args)
      expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
      expect(stderr).toMatch(/"untrained": .*does nothing/)
      expect(stderr).toContain('--no-verify')
      expect(existsSync(at(`${verb}-untrained`))).toBe(false)
      expect((await sidepath([...args, '--no-verify'])).code).toBe(0)
    }
    expect((await readdir(folder.path)).filter((name) => name.includes('partial'))).toEqual([])
  })

  it('take weights where they are stacked and not where they are routed', async () => {
    const args = ['compile', '--base', base, '--adapter', `a*2=${a}`, '--out', at('weighted')]
    const { code, stderr } = await sidepath(args)
    expect([code, stderr]).toEqual([1, expect.stringContaining('--target stacked')])
  })
})

describe('verify', () => {
  it('prints a table and ends with 0', async () => {
    const { code, stdout } = await sidepath(['verify', at('routed')])
    expect(code).toBe(0)
    expect(stdout).toMatch(/^routed artifact [0-9a-f]{64}\n8 files hashed\n/)
    expect(stdout).toMatch(/\nb +routed +merged +engine\.onnx .* ok\n/)
  })

  it('takes the sources, and a seed, and prints JSON', async () => {
    const sources = ['--base', base, '--adapter', `a=${a}`, '--adapter', `b=${b}`]
    const { code, stdout } = await sidepath(['verify', at('merged'), ...sources, '--seed', '9', '--json'])
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({ ok: true, seed: 9, target: 'merged', notes: [], problems: [] })
  })

  it('ends with 1 and names the file of which one byte has changed', async () => {
    await cp(at('routed'), at('flipped'), { recursive: true })
    await flipByte(join(at('flipped'), 'model.onnx_data'), 5000)
    const { code, stdout } = await sidepath(['verify', at('flipped')])
    expect(code).toBe(1)
    expect(stdout).toMatch(/FAILED: .*"model\.onnx_data" is not the file that was compiled/)
    const json = await sidepath(['verify', at('flipped'), '--json'])
    expect(json.code).toBe(1)
    expect(JSON.parse(json.stdout)).toMatchObject({ ok: false, comparisons: [] })
  })

  it('ends with 1 and names the adapter file whose scaling was applied twice by hand', async () => {
    await cp(at('routed'), at('twice'), { recursive: true })
    const { adapters } = await readManifest(at('twice'))
    const path = join(at('twice'), adapters[0]!.file!)
    const bytes = await readFile(path)
    // In place, header and metadata as they were: lora_alpha / r of a is 12 / 5 for every module.
    const start = 8 + Number(bytes.readBigUInt64LE(0))
    const header = JSON.parse(bytes.subarray(8, start).toString())
    for (const [name, entry] of Object.entries<{ data_offsets: [number, number] }>(header)) {
      if (!name.endsWith('.lora_B')) continue
      const [from, to] = entry.data_offsets
      for (let i = start + from; i < start + to; i += 4) bytes.writeFloatLE(bytes.readFloatLE(i) * 2.4, i)
    }
    await writeFile(path, bytes)
    const { code, stdout } = await sidepath(['verify', at('twice')])
    expect([code, stdout]).toEqual([1, expect.stringContaining(adapters[0]!.digest)])
  })

  it.each([
    ['a folder that is no artifact', [b], /manifest\.json is missing/],
    ['a folder that is not there', ['/nowhere'], /does not exist/],
    ['a seed that is none', [TINY, '--seed', 'x'], /--seed "x"/],
    ['a source with a weight', [TINY, '--adapter', `a*2=${a}`], /weight is in the manifest/],
  ])('refuses %s', async (_, args, words) => {
    const { code, stderr } = await sidepath(['verify', ...args])
    expect([code, stderr]).toEqual([1, expect.stringMatching(words)])
  })
})

describe('inspect and export', () => {
  it('prints tables, and JSON with the same content', async () => {
    const { stdout } = await sidepath(['inspect', b])
    expect(stdout).toMatch(/^adapter /)
    expect(stdout).toMatch(/model\.layers\.1\.self_attn\.q_proj +2 +5 +3\.53553/)
    const json = JSON.parse((await sidepath(['inspect', b, '--json'])).stdout)
    expect(json).toMatchObject({ kind: 'adapter', facts: { r: 3 } })
  })

  it('knows the artifact as verified', async () => {
    expect((await sidepath(['inspect', at('stacked')])).stdout).toMatch(/verified +yes, 7 comparisons/)
  })

  it('does not let a name in a file talk to the terminal', async () => {
    const header = JSON.stringify({ 'a\u001b[2Jb': { dtype: 'F32', shape: [0], data_offsets: [0, 0] } })
    const prefix = Buffer.alloc(8)
    prefix.writeBigUInt64LE(BigInt(header.length))
    await writeFile(at('escape.safetensors'), Buffer.concat([prefix, Buffer.from(header)]))
    const { stdout } = await sidepath(['inspect', at('escape.safetensors')])
    expect(stdout).toContain('a\\u{1b}[2Jb')
    expect(stdout).not.toContain('\u001b')
  })

  it('ends with 1 where it knows nothing of the file', async () => {
    const { code, stderr } = await sidepath(['inspect', import.meta.filename])
    expect([code, stderr]).toEqual([1, expect.stringContaining('this is not a PEFT')])
  })

  it('exports an adapter that inspect reads again', async () => {
    const args = ['export', '--artifact', at('routed'), '--adapter', 'b', '--out', at('b.onnx_adapter')]
    expect((await sidepath(args)).code).toBe(0)
    const found = JSON.parse((await sidepath(['inspect', at('b.onnx_adapter'), '--json'])).stdout)
    expect(found).toMatchObject({ kind: 'onnx-adapter', facts: { parameters: 12 } })
    expect(found.tables.modules).toContainEqual({ module: 'model.layers.1.self_attn.q_proj', r: 2, in: 48, out: 48 })
    expect((await sidepath(args)).stderr).toContain('exists')
  })

  it('exports all of a stack, or one adapter of it with zeros for what it lacks: every input of the graph', async () => {
    const graph = JSON.parse((await sidepath(['inspect', join(at('stacked'), 'model.onnx'), '--json'])).stdout)
    const inputs = graph.tables.inputs.map(({ name }: { name: string }) => name)
    const lowRank = inputs.filter((name: string) => name.includes('.lora_')).sort()
    for (const more of [[], ['--adapter', 'b']]) {
      const out = at(`stack${more.length}.onnx_adapter`)
      expect((await sidepath(['export', '--artifact', at('stacked'), '--out', out, ...more])).code).toBe(0)
      const { tables } = JSON.parse((await sidepath(['inspect', out, '--json'])).stdout)
      expect(tables.parameters.map(({ name }: { name: string }) => name).sort()).toEqual(lowRank)
    }
  })

  it.each([
    ['of a merged artifact', 'merged', ['--adapter', 'a'], /holds no adapters/],
    ['without a name from a routed one', 'routed', [], /--adapter is needed .* a, b/],
    ['by a name that is not there', 'routed', ['--adapter', 'c'], /"c": the artifact has no such one; it has: a, b/],
  ])('exports nothing %s', async (_, artifact, more, words) => {
    const args = ['export', '--artifact', at(artifact), '--out', at('none.onnx_adapter'), ...more]
    const { code, stderr } = await sidepath(args)
    expect([code, stderr]).toEqual([1, expect.stringMatching(words)])
    expect(existsSync(at('none.onnx_adapter'))).toBe(false)
  })
})
