// Random damage to every file that comes from outside: the answer is an InputError or a sound result, never a crash.
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { readAdapterFolder } from '../../compiler/adapter/read.ts'
import { layerLinears } from '../../compiler/checkpoint/names.ts'
import { openCheckpoint } from '../../compiler/checkpoint/read.ts'
import { compile } from '../../compiler/compile.ts'
import { compileAdapter } from '../../compiler/compile-adapter.ts'
import type { Manifest } from '../../compiler/contract.ts'
import { InputError } from '../../compiler/errors.ts'
import { readAdapter } from '../../compiler/read-adapter.ts'
import { readArtifact } from '../../compiler/read-artifact.ts'
import { firstNonFinite } from '../../compiler/safetensors/decode.ts'
import { readHeader } from '../../compiler/safetensors/read.ts'
import { nodeHost } from '../../runtime/disk.ts'
import {
  ADAPTER_FILES,
  BASE_FILES,
  type Files,
  loadFiles,
  memoryFolder,
  memoryOut,
  memorySource,
  TINY,
} from './folders.ts'
import { FUZZ_SEED, mutate, seeded } from './random.ts'
import { float32, writeRaw } from './safetensors-file.ts'

let base: Record<string, Uint8Array>
let b: Record<string, Uint8Array>
let manifest: Manifest
let artifact: Map<string, Uint8Array>
let compiled: Uint8Array

beforeAll(async () => {
  base = await loadFiles(join(TINY, 'base'), BASE_FILES)
  b = await loadFiles(join(TINY, 'b'), ADAPTER_FILES)
  const out = memoryOut()
  const adapters = [{ name: 'b', folder: memoryFolder('b', b) }]
  manifest = (await compile({ base: memoryFolder('base', base), adapters, target: 'routed' }, out, nodeHost)).manifest
  artifact = out.files
  compiled = out.files.get(manifest.adapters[0]!.file!)!
})

/** Runs `step` many times and returns how often the input was refused; anything but an InputError ends the test. */
async function refusals(rounds: number, step: (random: () => number) => Promise<unknown>): Promise<number> {
  const random = seeded(FUZZ_SEED)
  let refused = 0
  for (let round = 0; round < rounds; round += 1) {
    try {
      await step(random)
    } catch (error) {
      if (!(error instanceof InputError)) throw new Error(`seed ${FUZZ_SEED}, round ${round}`, { cause: error })
      refused += 1
    }
  }
  return refused
}

const headerEnd = (file: Uint8Array) => 8 + Number(new DataView(file.buffer, file.byteOffset, 8).getBigUint64(0, true))
const damage = (files: Record<string, Uint8Array>, path: string, random: () => number, to?: number): Files => ({
  ...files,
  [path]: mutate(files[path]!, random, 0, to),
})

describe('random bytes in', () => {
  it('a safetensors file', async () => {
    const whole = writeRaw(
      new Map([
        ['model.w', { dtype: 'F32', shape: [2, 3], data: float32([1, 2, 3, 4, 5, 6]) }],
        ['model.v', { dtype: 'F16', shape: [3], data: new Uint8Array(6) }],
      ]),
      { format: 'pt' },
    )
    const refused = await refusals(4000, async (random) => {
      const { tensors } = await readHeader(memorySource('x', mutate(whole, random)))
      for (const { offset, bytes, source } of tensors.values()) {
        expect(offset >= 8 && offset + bytes <= source.size).toBe(true)
      }
    })
    expect(refused).toBeGreaterThan(1000)
  })

  it('adapter_config.json', async () => {
    const linears = layerLinears(manifest.base.architecture)
    const refused = await refusals(1500, async (random) => {
      const folder = memoryFolder('b', damage(b, 'adapter_config.json', random))
      const { modules } = await readAdapterFolder('b', folder, linears)
      expect(modules).toHaveLength(6)
    })
    expect(refused).toBeGreaterThan(500)
  })

  it('the header of adapter_model.safetensors', async () => {
    const to = headerEnd(b['adapter_model.safetensors']!)
    const refused = await refusals(1000, async (random) => {
      const folder = memoryFolder('b', damage(b, 'adapter_model.safetensors', random, to))
      await compileAdapter({ name: 'b', folder, base: manifest }, memoryOut(), nodeHost)
    })
    expect(refused).toBeGreaterThan(900)
  })

  it('a compiled adapter', async () => {
    const refused = await refusals(1000, async (random) => {
      const { modules } = await readAdapter(memorySource('x', mutate(compiled, random)), manifest)
      for (const { A, B } of modules.values()) expect(firstNonFinite(A) + firstNonFinite(B)).toBe(-2)
    })
    expect(refused).toBeGreaterThan(50)
  })

  it('config.json', async () => {
    const refused = await refusals(1000, async (random) => {
      const { tensors } = await openCheckpoint(memoryFolder('base', damage(base, 'config.json', random)))
      expect(tensors.size).toBe(21)
    })
    expect(refused).toBeGreaterThan(300)
  })

  it('manifest.json', async () => {
    const files = Object.fromEntries(artifact)
    const refused = await refusals(500, async (random) => {
      await readArtifact(memoryFolder('x', damage(files, 'manifest.json', random)), nodeHost)
    })
    expect(refused).toBeGreaterThan(100)
  })
})
