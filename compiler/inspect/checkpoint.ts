// A Hugging Face checkpoint of any architecture: its configuration, its tensors, and whether this compiler takes it.

import { INDEX_FILE, openCheckpoint, readIndex, SINGLE_FILE } from '../checkpoint/read.ts'
import { encoderFamily } from '../encoder/config.ts'
import { openEncoder } from '../encoder/open.ts'
import { inputError, Problems, quote } from '../errors.ts'
import type { Folder } from '../host.ts'
import { readJson, withFile } from '../read-file.ts'
import { readHeader, type StoredTensor } from '../safetensors/read.ts'
import { messagesOf } from './adapter.ts'
import type { Cell, Inspection, Row } from './inspection.ts'
import { rowsOf, totals } from './safetensors.ts'

export const CHECKPOINT_CONFIG = 'config.json'

/** Of config.json, where it has them: what people compare. */
const FACTS = [
  'model_type',
  'hidden_size',
  'intermediate_size',
  'num_hidden_layers',
  'num_attention_heads',
  'num_key_value_heads',
  'head_dim',
  'vocab_size',
  'max_position_embeddings',
  'rope_theta',
  'tie_word_embeddings',
  'dtype',
  'torch_dtype',
]

export async function inspectCheckpoint(folder: Folder): Promise<Inspection> {
  const config = await readJson(folder, CHECKPOINT_CONFIG)
  const given = new Map(typeof config === 'object' && config !== null ? Object.entries(config) : [])
  const facts: Record<string, Cell> = {}
  for (const key of FACTS) {
    const value = given.get(key)
    if (value !== undefined && value !== null && typeof value !== 'object') {
      facts[key] = typeof value === 'boolean' ? String(value) : value
    }
  }
  const { tensors, rows, files } = await readTensors(folder)
  const problems = new Problems()
  const opened = await problems.collect(async () => {
    const open = (await encoderFamily(folder)) === undefined ? openCheckpoint : openEncoder
    await (await open(folder)).close()
    return true
  })
  return {
    kind: 'checkpoint',
    name: folder.name,
    facts: { ...facts, files, ...totals(tensors), compiles: opened === true ? 'yes' : 'no' },
    tables: { tensors: rows },
    notes: messagesOf(problems),
  }
}

async function readTensors(folder: Folder): Promise<{ tensors: StoredTensor[]; rows: Row[]; files: number }> {
  const single = await withFile(folder, SINGLE_FILE, readHeader)
  if (single !== undefined) {
    const tensors = [...single.tensors.values()]
    return { tensors, rows: rowsOf(tensors), files: 1 }
  }
  const index = await readIndex(folder)
  const paths = [...new Set(index.values())]
  const tensors: StoredTensor[] = []
  const rows: Row[] = []
  for (const path of paths) {
    const header = await withFile(folder, path, readHeader)
    if (header === undefined) {
      throw inputError('file-missing', `${folder.name}/${path} is missing; ${INDEX_FILE} lists it`)
    }
    const here = [...header.tensors.values()]
    tensors.push(...here)
    rows.push(...rowsOf(here).map((row) => ({ ...row, file: path })))
  }
  const found = new Set(tensors.map(({ name }) => name))
  const lost = [...index.keys()].find((name) => !found.has(name))
  if (lost !== undefined) throw inputError('tensor-missing', `${folder.name}: no file has the tensor ${quote(lost)}`)
  return { tensors, rows, files: paths.length }
}
