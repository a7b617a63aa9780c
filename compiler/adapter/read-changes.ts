// Reads an adapter against a base, whatever tool wrote it: hostile until every tensor has its place and every target its
// tensors. Nothing here knows an architecture; the base is the map of its tensors.
import { compareCodePoints } from '../canonical-json.ts'
import { Problems, quote } from '../errors.ts'
import type { Folder } from '../host.ts'
import type { AdapterChanges, BaseTensors, Change } from './change.ts'
import { checkName } from './check-name.ts'
import { isKohya, readKohya } from './kohya.ts'
import { readMlx } from './mlx.ts'
import { type DialectChanges, readPeft } from './peft.ts'
import type { Reading } from './reading.ts'
import { MLX_FILE, openWeights } from './weights-file.ts'

export interface AdapterInput {
  readonly name: string
  readonly folder: Folder
  /** In a merge; 1 where absent. */
  readonly weight?: number
}

export interface ReadOptions {
  /** The base is not a whole checkpoint but the linears of its layers: messages say so of what is not among them. */
  readonly isPartial?: boolean
}

const ORDER: readonly Change['kind'][] = ['replace', 'low-rank', 'add', 'rows']
/** What transformers calls the embedding of tokens, which a head may be tied to. */
const TOKEN_EMBEDDING = /(^|\.)(embed_tokens|wte|word_embeddings|embed_in|shared|tok_embeddings)\.weight$/

/**
 * Throws one `InputError` with every problem of the adapter: options that are not understood, tensors without a place or
 * a partner, ranks that contradict the config, targets without tensors, modules of another base, NaN.
 */
export async function readChanges(
  input: AdapterInput,
  base: BaseTensors,
  { isPartial = false }: ReadOptions = {},
): Promise<AdapterChanges> {
  const { name, folder, weight = 1 } = input
  const problems = new Problems()
  const about = `adapter ${quote(name)}`
  checkInput(name, weight, problems)
  const read = await problems.collect(() => readDialect(folder, { about, problems, base, isPartial }))
  problems.throwIfAny()
  if (read === undefined) throw new Error('sidepath bug: an unread adapter has no problem')
  const changes = read.changes.toSorted(
    (a, b) => compareCodePoints(a.tensor, b.tensor) || ORDER.indexOf(a.kind) - ORDER.indexOf(b.kind),
  )
  return { name, weight, changes, loraAlpha: read.loraAlpha, useRslora: read.useRslora, untied: untiedBy(changes) }
}

async function readDialect(folder: Folder, reading: Omit<Reading, 'location'>): Promise<DialectChanges | undefined> {
  const { about, problems } = reading
  const weights = await problems.collect(() => openWeights(folder, about))
  if (weights?.path === MLX_FILE) return readMlx(folder, weights, reading)
  if (weights !== undefined && isKohya(weights.tensors)) return readKohya(weights, reading)
  return readPeft(folder, weights, reading)
}

/** LoRA and modules_to_save act on the embedding alone, while an embedding that PEFT saved on its own is the tied one. */
function untiedBy(changes: readonly Change[]): string[] {
  const isSaved = (change: Change) =>
    change.kind === 'replace' && !change.sources.some((name) => name.includes('.base_layer.'))
  return changes
    .filter((change) => TOKEN_EMBEDDING.test(change.tensor) && (change.kind === 'low-rank' || isSaved(change)))
    .map(({ tensor }) => tensor)
}

function checkInput(name: string, weight: number, problems: Problems): void {
  checkName(name, problems)
  if (!Number.isFinite(weight) || weight === 0) {
    problems.add('adapter-weight', `adapter ${quote(name)}: the weight is ${weight}; give a finite one that is not 0`)
  }
}
