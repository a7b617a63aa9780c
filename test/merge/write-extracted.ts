// An adapter that `extract` finds, for PEFT to load: test/parity/extract-oracle.py calls this, and a test checks what it
// then stored. The tuned checkpoint is the tiny base with an adapter that PEFT wrote merged into it.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { readChanges } from '../../compiler/adapter/read-changes.ts'
import { extractAdapter } from '../../compiler/merge/extract.ts'
import { openBase } from '../../compiler/merge/open-base.ts'
import { openFolder, stageFolder } from '../../runtime/disk.ts'
import { memoryFolder } from '../compiler/folders.ts'
import { mergeInMemory } from './checkpoints.ts'

const ORACLE = join(import.meta.dirname, '..', 'parity', 'oracle')
const BASE = join(ORACLE, 'tiny', 'base')
/** Of oracle/combine: r = 5, alpha/r = 12/5, on a linear of attention and one of the MLP. */
const ADAPTER = join(ORACLE, 'combine', 'a')
const RANK = 5

export async function writeExtracted(folder: string): Promise<void> {
  const files = Object.fromEntries(
    ['config.json', 'model.safetensors'].map((name) => [name, new Uint8Array(readFileSync(join(BASE, name)))]),
  )
  const base = await openBase(memoryFolder('base', files))
  const adapter = await readChanges({ name: 'a', folder: openFolder(ADAPTER) }, base.tensors)
  const merged = await mergeInMemory(files, [adapter])
  const tuned = await openBase(memoryFolder('tuned', { ...files, ...Object.fromEntries(merged.files) }))
  const out = await stageFolder(folder)
  await extractAdapter(base, tuned, { rank: RANK, baseModelNameOrPath: 'sidepath/tiny-base' }, out)
  await out.commit()
}
