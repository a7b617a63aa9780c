// The verbs on a GGUF base: compiled, merged into a checkpoint, and what is said of a file that is none.
import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openCheckpoint } from '../../compiler/checkpoint/read.ts'
import { openGguf } from '../../compiler/gguf/folder.ts'
import { readFloats } from '../../compiler/safetensors/stream.ts'
import { openFile, openFolder } from '../../runtime/disk.ts'
import { FUZZ_SEED, seeded } from '../compiler/random.ts'
import { float32, writeRaw } from '../compiler/safetensors-file.ts'
import { TINY_KEYS, TINY_SIZES, tinyTensors, writeGguf } from './gguf-file.ts'

const run = promisify(execFile)
const sidepath = (...args: string[]) => run(process.execPath, [join(import.meta.dirname, '../../cli/bin.js'), ...args])
const MODULE = 'model.layers.1.self_attn.q_proj'
const R = 3
const SCALING = 4 / R

let folder: string
let gguf: string
let A: Float32Array
let B: Float32Array

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sidepath-gguf-'))
  gguf = join(folder, 'tiny.gguf')
  const random = seeded(FUZZ_SEED)
  await writeFile(gguf, writeGguf({ keys: TINY_KEYS, tensors: tinyTensors(random) }))
  const { HIDDEN, HEADS, HEAD_DIM } = TINY_SIZES
  A = Float32Array.from({ length: R * HIDDEN }, () => random() - 0.5)
  B = Float32Array.from({ length: HEADS * HEAD_DIM * R }, () => random() - 0.5)
  const tensors = new Map([
    [`base_model.model.${MODULE}.lora_A.weight`, { dtype: 'F32', shape: [R, HIDDEN], data: float32([...A]) }],
    [`base_model.model.${MODULE}.lora_B.weight`, { dtype: 'F32', shape: [HEADS * HEAD_DIM, R], data: float32([...B]) }],
  ])
  await mkdir(join(folder, 'adapter'))
  await writeFile(join(folder, 'adapter/adapter_model.safetensors'), writeRaw(tensors, { format: 'pt' }))
  const config = { peft_type: 'LORA', r: R, lora_alpha: 4, target_modules: ['q_proj'], layers_to_transform: [1] }
  await writeFile(join(folder, 'adapter/adapter_config.json'), JSON.stringify(config))
})

afterAll(() => rm(folder, { recursive: true, force: true }))

describe('a GGUF where a base is asked for', () => {
  it('compiles with an adapter, and passes the verification against its sources', async () => {
    const out = join(folder, 'artifact')
    await sidepath('compile', '--base', gguf, '--adapter', `x=${join(folder, 'adapter')}`, '--out', out)
    expect(await readdir(out)).toEqual(expect.arrayContaining(['manifest.json', 'tokenizer.json', 'verification.json']))
    const { stdout } = await sidepath('verify', out, '--base', gguf, '--json')
    expect(JSON.parse(stdout)).toMatchObject({ ok: true, problems: [] })
  })

  it('keeps its blocks with --quantize keep, says so, and passes the verification', async () => {
    const out = join(folder, 'kept')
    const adapter = `x=${join(folder, 'adapter')}`
    const text = join(folder, 'text.txt')
    await writeFile(text, 'ab a ab ab a b a')
    const args = ['--base', gguf, '--adapter', adapter, '--out', out, '--quantize', 'keep', '--eval-text', text]
    const { stdout } = await sidepath('compile', ...args)
    expect(stdout).toMatch(/Q4_1 +carried over as int4, exact +10/)
    expect(stdout).toMatch(/Q8_0 +carried over as int8, exact +3/)
    const checked = await sidepath('verify', out, '--base', gguf, '--json')
    expect(JSON.parse(checked.stdout)).toMatchObject({ ok: true, problems: [] })
    await expect(sidepath('compile', ...args, '--block', '64')).rejects.toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/--block is not for --quantize keep/),
    })
  })

  it('merges into a Hugging Face checkpoint: W + s·B·A on its rows, and its tokenizer beside it', async () => {
    const out = join(folder, 'checkpoint')
    const adapter = `x=${join(folder, 'adapter')}`
    await sidepath('merge', '--format', 'safetensors', '--base', gguf, '--adapter', adapter, '--out', out)
    expect((await readdir(out)).sort()).toEqual([
      'config.json',
      'generation_config.json',
      'model.safetensors',
      'tokenizer.json',
      'tokenizer_config.json',
    ])
    const before = await openCheckpoint(await openGguf(() => openFile(gguf)))
    const after = await openCheckpoint(openFolder(out))
    try {
      for (const [name, tensor] of before.tensors) {
        const [W, merged] = [await readFloats(tensor), await readFloats(after.tensors.get(name)!)]
        if (name !== `${MODULE}.weight`) expect(merged).toEqual(W)
        else expect(largestError(W, merged)).toBeLessThan(1e-5)
      }
    } finally {
      await before.close()
      await after.close()
    }
  })

  it('that is a file of another kind is refused in a sentence', async () => {
    const other = join(folder, 'other.bin')
    await writeFile(other, 'not a model')
    await expect(sidepath('compile', '--base', other, '--out', join(folder, 'x'))).rejects.toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/is a file but no GGUF/),
    })
  })
})

function largestError(W: Float32Array, merged: Float32Array): number {
  const { HIDDEN } = TINY_SIZES
  let largest = 0
  for (let i = 0; i < W.length; i += 1) {
    const [row, column] = [Math.floor(i / HIDDEN), i % HIDDEN]
    let delta = 0
    for (let k = 0; k < R; k += 1) delta += B[row * R + k]! * A[k * HIDDEN + column]!
    largest = Math.max(largest, Math.abs(W[i]! + SCALING * delta - merged[i]!))
  }
  return largest
}
