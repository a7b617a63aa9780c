// The folder that combine writes: PEFT's format, stable bytes, and readable by our own reader.
import { createHash } from 'node:crypto'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { readAdapterFolder } from '../../compiler/adapter/read.ts'
import { layerLinears } from '../../compiler/checkpoint/names.ts'
import { openCheckpoint } from '../../compiler/checkpoint/read.ts'
import { combineModules } from '../../compiler/combine/combine.ts'
import type { CombineOptions } from '../../compiler/combine/options.ts'
import { chooseRanks } from '../../compiler/combine/ranks.ts'
import { writePeft } from '../../compiler/combine/write-peft.ts'
import { openFolder } from '../../runtime/disk.ts'
import { memoryFolder, memoryOut, TINY } from '../compiler/folders.ts'
import { ORACLE, oracleInputs } from './adapters.ts'
import { writeForPeft } from './write-for-peft.ts'

const IDENTITY = { baseModelNameOrPath: 'sidepath/tiny-base', taskType: 'CAUSAL_LM', weights: { a: 0.7, d: 0.9 } }

async function written(names: readonly string[], options: CombineOptions = {}) {
  const result = combineModules(await oracleInputs(names), options)
  const out = memoryOut()
  await writePeft(result, IDENTITY, out)
  const config = JSON.parse(new TextDecoder().decode(out.files.get('adapter_config.json')))
  return { result, files: out.files, config }
}

describe('adapter_config.json', () => {
  test('has r = lora_alpha, so that PEFT scales by 1, and patterns where ranks differ', async () => {
    const { config } = await written(['a', 'd'])
    expect(config).toMatchObject({
      peft_type: 'LORA',
      base_model_name_or_path: 'sidepath/tiny-base',
      task_type: 'CAUSAL_LM',
      r: 8,
      lora_alpha: 8,
      use_rslora: false,
      rank_pattern: { 'model.layers.1.mlp.down_proj': 7 },
      alpha_pattern: { 'model.layers.1.mlp.down_proj': 7 },
      target_modules: ['model.layers.0.self_attn.k_proj', 'model.layers.1.mlp.down_proj'],
    })
  })

  test('has no pattern where one rank holds', async () => {
    const { config } = await written(['a', 'd'], { method: 'svd', rank: 3 })
    expect(config).toMatchObject({ r: 3, lora_alpha: 3, rank_pattern: {}, alpha_pattern: {} })
  })
})

describe('adapter_model.safetensors', () => {
  test('records the recipe: method, seed, weights', async () => {
    const { files } = await written(['a', 'd'], { method: 'dare_linear', density: 0.5, seed: 9 })
    const bytes = files.get('adapter_model.safetensors')!
    const header = new TextDecoder().decode(
      bytes.subarray(8, 8 + Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true))),
    )
    const recipe = JSON.parse(JSON.parse(header).__metadata__['sidepath.recipe'])
    expect(recipe).toEqual({
      method: 'dare_linear',
      density: 0.5,
      seed: 9,
      peftCompat: false,
      weights: { a: 0.7, d: 0.9 },
    })
  })

  test('has the same bytes twice, and in another order of adapters', async () => {
    for (const options of [{}, { method: 'ties_svd', density: 0.5 }, { method: 'karcher' }] as const) {
      expect((await written(['d', 'a'], options)).files).toEqual((await written(['a', 'd'], options)).files)
    }
  })

  test('is read back by our reader against the base, with rank and scaling of every module', async () => {
    const { files, result } = await written(['a', 'd'])
    const checkpoint = await openCheckpoint(openFolder(join(TINY, 'base')))
    const linears = layerLinears(checkpoint.config.architecture)
    await checkpoint.close()
    const adapter = await readAdapterFolder('mix', memoryFolder('mix', Object.fromEntries(files)), linears)
    expect(adapter.modules.map(({ linear, r, scaling }) => [linear.module, r, scaling])).toEqual(
      [...result.modules].map(([module, { r }]) => [module, r, 1]),
    )
  })
})

test('PEFT has loaded these very bytes, with no tensor missing and the logits of its own combination', async () => {
  const transcript = await readFile(join(ORACLE, 'load.txt'), 'utf8')
  const folder = await mkdtemp(join(tmpdir(), 'sidepath-peft-'))
  for (const name of await writeForPeft(folder)) {
    const bytes = await readFile(join(folder, name, 'adapter_model.safetensors'))
    const digest = createHash('sha256').update(bytes).digest('hex')
    expect(transcript).toContain(`${name} ${digest}: loads with 0 missing and 0 unexpected tensors`)
  }
  await rm(folder, { recursive: true })
})

describe('ranks', () => {
  const modules = (ranks: Record<string, number>) => new Map(Object.entries(ranks).map(([path, r]) => [path, { r }]))

  test('r is the commonest, the larger of two as common', () => {
    expect(chooseRanks(modules({ a: 3, b: 3, c: 9 })).r).toBe(3)
    expect(chooseRanks(modules({ a: 3, b: 9 })).r).toBe(9)
  })

  test("a key never catches another module's path: the longer comes first, and gets its own where needed", () => {
    const { r, rankPattern } = chooseRanks(modules({ 'layers.0.q': 2, 'decoder.layers.0.q': 4, 'layers.1.q': 4 }))
    expect(r).toBe(4)
    expect([...rankPattern]).toEqual([
      ['decoder.layers.0.q', 4],
      ['layers.0.q', 2],
    ])
  })
})
