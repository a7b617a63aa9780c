// The folders that an artifact was compiled from, where the caller has them: what the artifact itself cannot prove.
import { type Adapter, readAdapterFolder } from '../adapter/read.ts'
import { layerLinears } from '../checkpoint/names.ts'
import { compile } from '../compile.ts'
import type { AnyManifest, Manifest } from '../contract.ts'
import { inputError, quote } from '../errors.ts'
import { DATA_FILE } from '../graph/weights.ts'
import type { Folder, Host, OutFolder } from '../host.ts'
import { optionsOf } from '../quantise/describe.ts'
import type { Findings } from './findings.ts'
import type { Deltas, Summand } from './merged-form.ts'

export interface Sources {
  readonly base?: Folder
  /** PEFT folders by the names of the manifest; some or all. */
  readonly adapters?: readonly { readonly name: string; readonly folder: Folder }[]
}

/** Throws `InputError` for an adapter that the artifact does not have. */
export function checkNames({ adapters = [] }: Sources, manifest: Pick<AnyManifest, 'adapters'>): void {
  const known = new Set(manifest.adapters.map(({ name }) => name))
  const stranger = adapters.find(({ name }) => !known.has(name))
  if (stranger === undefined) return
  const names = [...known].join(', ') || 'none'
  throw inputError('adapter-name', `the artifact has no adapter ${quote(stranger.name)}; it has: ${names}`)
}

/** w·s·A·B of each module as PEFT stored the factors, nothing folded yet; `undefined` where the caller has no source. */
export async function sourceDeltas(
  { adapters = [] }: Sources,
  { base }: Manifest,
  name: string,
  weight: number,
): Promise<Deltas | undefined> {
  const source = adapters.find((adapter) => adapter.name === name)
  if (source === undefined) return undefined
  const { modules }: Adapter = await readAdapterFolder(name, source.folder, layerLinears(base.architecture))
  return new Map(
    modules.map(({ linear, r, scaling, A, B }): [string, Summand[]] => [
      linear.module,
      [{ r, scale: weight * scaling, A, B }],
    ]),
  )
}

export const NOWHERE: OutFolder = {
  create: async () => ({ write: async () => {}, close: async () => {} }),
}

/** The weights of an artifact that keeps its base are the base's, byte for byte. Writes nothing. */
export async function checkBase(base: Folder, manifest: Manifest, host: Host, findings: Findings): Promise<void> {
  const options = manifest.quantisation && optionsOf(manifest.quantisation)
  // What was calibrated cannot be made again without its text: then the base is known by its digest alone.
  const calibrated = options !== undefined && options.method !== 'keep' && options.rounding === 'gptq'
  const quantise = calibrated ? { ...options, rounding: 'rtn' as const } : options
  const made = await compile({ base, adapters: [], target: 'merged', ...(quantise && { quantise }) }, NOWHERE, host)
  const data = ({ files }: Manifest) => files.find(({ path }) => path === DATA_FILE)?.sha256
  if (made.manifest.base.digest !== manifest.base.digest) {
    findings.problems.push(
      `${base.name}: its digest is ${made.manifest.base.digest}, but the artifact was compiled from ${manifest.base.digest}`,
    )
  } else if (!calibrated && data(made.manifest) !== data(manifest)) {
    findings.problems.push(`${DATA_FILE} does not hold the weights of ${base.name}`)
  }
}
