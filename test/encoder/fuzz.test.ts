// Random damage to what describes an encoder: an InputError or a sound result, never a crash.
import { beforeAll, expect, it } from 'vitest'
import { compileEncoder } from '../../compiler/encoder/compile.ts'
import { encoderFamily } from '../../compiler/encoder/config.ts'
import { openEncoder } from '../../compiler/encoder/open.ts'
import { InputError } from '../../compiler/errors.ts'
import { readAnyArtifact } from '../../compiler/read-artifact.ts'
import { nodeHost } from '../../runtime/disk.ts'
import { type Files, loadFiles, memoryFolder, memoryOut } from '../compiler/folders.ts'
import { FUZZ_SEED, mutate, seeded } from '../compiler/random.ts'
import { TINY_NAMES, tinyPath } from './encoders.ts'

const ROUNDS = 400
const PIPELINE = {
  'modules.json': JSON.stringify(
    ['Transformer', 'Pooling', 'Normalize'].map((type, idx) => ({
      idx,
      path: idx === 0 ? '' : `${idx}_${type}`,
      type,
    })),
  ),
  '1_Pooling/config.json': JSON.stringify({ pooling_mode_mean_tokens: true, include_prompt: true }),
  'sentence_bert_config.json': JSON.stringify({ max_seq_length: 31 }),
}

const bases: Record<string, Record<string, Uint8Array>> = {}
beforeAll(async () => {
  for (const name of TINY_NAMES) {
    const more = Object.entries(PIPELINE).map(([path, text]) => [path, new TextEncoder().encode(text)] as const)
    const files = await loadFiles(tinyPath(name), ['config.json', 'model.safetensors'])
    bases[name] = { ...files, ...(name.includes('classifier') ? {} : Object.fromEntries(more)) }
  }
})

/** Runs `step` many times and returns how often the input was refused; anything but an InputError ends the test. */
async function refusals(step: (random: () => number) => Promise<unknown>): Promise<number> {
  const random = seeded(FUZZ_SEED)
  let refused = 0
  for (let round = 0; round < ROUNDS; round += 1) {
    try {
      await step(random)
    } catch (error) {
      if (!(error instanceof InputError)) throw new Error(`seed ${FUZZ_SEED}, round ${round}`, { cause: error })
      refused += 1
    }
  }
  return refused
}

const damaged = (files: Files, path: string, random: () => number) =>
  memoryFolder('base', { ...files, [path]: mutate(files[path] as Uint8Array, random) })

it.each(TINY_NAMES)('the JSON files of %s', async (name) => {
  const files = bases[name]!
  const paths = Object.keys(files).filter((path) => path.endsWith('.json'))
  const refused = await refusals(async (random) => {
    const folder = damaged(files, paths[Math.floor(random() * paths.length)]!, random)
    if ((await encoderFamily(folder)) === undefined) return
    const checkpoint = await openEncoder(folder)
    await checkpoint.close()
    // What is accepted can be compiled.
    await compileEncoder({ base: folder, adapters: [], target: 'routed' }, memoryOut(), nodeHost)
  })
  expect(refused).toBeGreaterThan(ROUNDS / 4)
})

it('the manifest of an encoder', async () => {
  const out = memoryOut()
  const base = memoryFolder('base', bases['bert-classifier']!)
  await compileEncoder({ base, adapters: [], target: 'routed' }, out, nodeHost)
  const files = Object.fromEntries(out.files)
  const { id } = await readAnyArtifact(memoryFolder('artifact', files), nodeHost)
  const refused = await refusals(async (random) => {
    const read = await readAnyArtifact(damaged(files, 'manifest.json', random), nodeHost)
    // One that parses is another artifact, unless nothing was changed.
    if (read.id === id) return
    expect(read.manifest.files.length).toBeGreaterThan(0)
  })
  expect(refused).toBeGreaterThan(ROUNDS / 4)
})
