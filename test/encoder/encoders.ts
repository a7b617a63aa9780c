// Encoder artifacts for tests: compiled to a temporary folder, and run from their specification alone
// (docs/artifact-format.md).
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { AdapterInput } from '../../compiler/adapter/read-changes.ts'
import { type EncoderManifest, graphNames } from '../../compiler/contract.ts'
import { compileEncoder } from '../../compiler/encoder/compile.ts'
import type { Folder } from '../../compiler/host.ts'
import type { CompiledAdapter } from '../../compiler/read-adapter.ts'
import { bankOf, stackOf } from '../../compiler/verify/side-path.ts'
import { nodeHost, openFolder, stageFolder } from '../../runtime/disk.ts'
import { openSession, type Tensor } from '../../runtime/node.ts'
import { memorySource } from '../compiler/folders.ts'
import { int } from '../compiler/runner.ts'
import { temporaryFolder } from '../e2e/running.ts'

export const ENCODERS = join(import.meta.dirname, '../parity/oracle/encoders')
export const TINY_NAMES = ['bert', 'bert-classifier', 'modernbert', 'modernbert-classifier'] as const
export type TinyName = (typeof TINY_NAMES)[number]

export const tinyPath = (name: TinyName) => join(ENCODERS, 'tiny', name)

/** Output name → per row of the batch, its values; only the tokens that are no padding. */
export type Answers = Readonly<Record<string, readonly (readonly number[])[]>>

export interface Oracle {
  readonly lengths: readonly number[]
  readonly input_ids: readonly (readonly number[])[]
  readonly token_type_ids: readonly (readonly number[])[]
  readonly answers: Readonly<Record<string, Answers>>
  /** `right all`: the side of the padding, and the modes → the vectors of the texts. */
  readonly pooled?: Readonly<Record<string, Record<'plain' | 'unit', readonly (readonly number[])[]>>>
}

export const readOracle = async (name: TinyName): Promise<Oracle> =>
  JSON.parse(await readFile(join(tinyPath(name), 'answers.json'), 'utf8')) as Oracle

export const tinyAdapter = (model: TinyName, name: string, weight = 1): AdapterInput => ({
  name,
  folder: openFolder(join(tinyPath(model), 'adapters', name)),
  weight,
})

/** A folder with some files put in place of its own, or added; `undefined` is a file that is gone. */
export function withFiles(folder: Folder, files: Readonly<Record<string, string | undefined>>): Folder {
  return {
    name: folder.name,
    async open(path) {
      if (!Object.hasOwn(files, path)) return folder.open(path)
      const text = files[path]
      return text === undefined ? undefined : memorySource(`${folder.name}/${path}`, text)
    },
  }
}

export async function compileToDisk(
  base: Folder,
  adapters: readonly AdapterInput[],
  target: EncoderManifest['target'],
): Promise<{ path: string; manifest: EncoderManifest; id: string } & AsyncDisposable> {
  const folder = await temporaryFolder()
  const path = join(folder.path, 'artifact')
  const staged = await stageFolder(path)
  const made = await compileEncoder({ base, adapters, target }, staged, nodeHost)
  await staged.commit()
  return { ...made, path, [Symbol.asyncDispose]: () => folder.remove() }
}

export interface Batch {
  readonly lengths: readonly number[]
  readonly ids: readonly (readonly number[])[]
  readonly types?: readonly (readonly number[])[]
  readonly side?: 'left' | 'right'
}

/** Rows padded to the longest; `mask` from the lengths. What stands past a row's length moves to its front on the left. */
export function feedsOf(
  manifest: EncoderManifest,
  { lengths, ids, types, side = 'right' }: Batch,
): Record<string, Tensor> {
  const rows = ids.length
  const tokens = Math.max(...ids.map((row) => row.length))
  const pad = (row: readonly number[]) => [...row, ...Array<number>(tokens - row.length).fill(0)]
  const place = (row: readonly number[], at: number) => {
    const padded = pad(row)
    const shift = side === 'left' ? tokens - (lengths[at] ?? 0) : 0
    return padded.map((_, token) => padded[(token - shift + tokens) % tokens] as number)
  }
  const mask = lengths.map((length, at) => place(Array<number>(length).fill(1), at))
  const zeros = ids.map(() => [])
  return {
    [graphNames.inputIds]: int(ids.flatMap(place), rows, tokens),
    [graphNames.attentionMask]: int(mask.flat(), rows, tokens),
    ...(manifest.base.architecture.family === 'bert'
      ? { [graphNames.tokenTypeIds]: int((types ?? zeros).flatMap(place), rows, tokens) }
      : {}),
  }
}

/** `side`: the low-rank inputs, where the artifact has them. */
export async function runGraph(
  path: string,
  manifest: EncoderManifest,
  batch: Batch,
  side: Readonly<Record<string, Tensor>> = {},
): Promise<Answers> {
  const session = await openSession(join(path, manifest.graphs.model), { threads: 1 })
  try {
    const results = await session.run({ ...feedsOf(manifest, batch), ...side })
    return Object.fromEntries(
      Object.entries(results).map(([name, { data, dims }]) => {
        const size = data.length / batch.ids.length
        const width = dims.at(-1) ?? 0
        return [
          name,
          batch.lengths.map((length, row) => {
            const end = dims.length === 3 ? length * width : size
            return Array.from(data.slice(row * size, row * size + end), Number)
          }),
        ]
      }),
    )
  } finally {
    await session.release()
  }
}

/** The bank and the slots of rows that use `adapters`; `undefined` is the base. */
export function slotsFor(
  manifest: EncoderManifest,
  resident: readonly CompiledAdapter[],
  rows: readonly (string | undefined)[],
): Record<string, Tensor> {
  const { feeds } = bankOf(
    manifest,
    resident.map(({ modules }) => modules),
  )
  // bankOf puts adapter i into slot n - i of n.
  const slot = (name: string | undefined) =>
    name === undefined ? 0 : resident.length - resident.findIndex((adapter) => adapter.name === name)
  return { ...feeds, [graphNames.adapterSlots]: int(rows.map(slot), rows.length) } as Record<string, Tensor>
}

export const stackFeeds = (manifest: EncoderManifest, modules: CompiledAdapter['modules']): Record<string, Tensor> =>
  stackOf(manifest, modules).feeds as Record<string, Tensor>

/** Over every value of the outputs that the oracle has; infinite where one is missing or of another length. */
export function largestError(found: Answers, expected: Answers, rows?: readonly number[]): number {
  let worst = 0
  for (const [name, list] of Object.entries(expected)) {
    for (const row of rows ?? list.keys()) {
      const [x, y] = [found[name]?.[row] ?? [], list[row] ?? []]
      if (x.length !== y.length || y.length === 0) return Number.POSITIVE_INFINITY
      for (const [i, value] of y.entries()) {
        const error = Math.abs((x[i] as number) - value)
        if (!(error <= worst)) worst = Number.isNaN(error) ? Number.POSITIVE_INFINITY : error
      }
    }
  }
  return worst
}
