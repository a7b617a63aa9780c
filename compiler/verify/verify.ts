// Is an artifact what its manifest says, and do its forms compute the same? Every file is hashed; then the base, each
// adapter's low-rank path and its merged form run through both graphs on seeded probes.
import { checkGraphs } from '../check-graphs.ts'
import { type AnyManifest, isEncoder } from '../contract.ts'
import { verifyEncoder } from '../encoder/verify.ts'
import { InputError } from '../errors.ts'
import type { Host } from '../host.ts'
import { readAnyArtifact, verifyFiles } from '../read-artifact.ts'
import { Findings, VERIFICATION_SCHEMA, type Verification } from './findings.ts'
import { verifyLowRank } from './low-rank.ts'
import { verifyMerged } from './merged.ts'
import { drawProbes } from './probes.ts'
import type { GraphFolder, VerifyHost } from './session.ts'
import { checkBase, checkNames, type Sources } from './sources.ts'

const DEFAULT_SEED = 1

export interface VerifyInput {
  readonly artifact: GraphFolder
  /**
   * Where the caller has them. Without sources the figures say that the artifact agrees with itself; with them, that it
   * computes what they say.
   */
  readonly sources?: Sources
  readonly seed?: number
  /** Run no graph, for this reason. */
  readonly filesOnly?: string
}

/**
 * Throws `InputError` where the manifest cannot be read, or a source cannot. All else that is wrong is in `problems`.
 * No graph is run unless every file is the one that was compiled.
 */
export async function verify(
  { artifact, sources = {}, seed = DEFAULT_SEED, filesOnly }: VerifyInput,
  host: VerifyHost,
  onStep: (what: string) => void = () => {},
): Promise<Verification> {
  const { id, manifest } = await readAnyArtifact(artifact.folder, host)
  checkNames(sources, manifest)
  const probes = drawProbes(manifest.base.architecture, seed)
  const lengths = probes.map(({ ids }) => ids.length)
  const findings = new Findings(manifest, Math.max(...lengths))
  onStep('files')
  await checkFiles(artifact, manifest, host, findings)
  const given = { artifact, sources, probes, findings, host, onStep }
  if (filesOnly !== undefined) findings.notes.push(filesOnly)
  else if (findings.problems.length === 0 && isEncoder(manifest)) await verifyEncoder({ ...given, manifest })
  else if (findings.problems.length === 0 && !isEncoder(manifest)) {
    const { base } = sources
    const keepsBase = manifest.target !== 'merged' || manifest.adapters.length === 0
    if (base !== undefined && keepsBase) await checkBase(base, manifest, host, findings)
    const task = { ...given, manifest }
    await (manifest.target === 'merged' ? verifyMerged(task) : verifyLowRank(task))
  }
  const { comparisons, effects, notes, problems } = findings
  return {
    schema: VERIFICATION_SCHEMA,
    artifact: id,
    target: manifest.target,
    seed,
    probes: lengths,
    files: manifest.files.length,
    comparisons,
    effects,
    notes,
    problems,
    ok: problems.length === 0,
  }
}

async function checkFiles(
  { folder }: GraphFolder,
  manifest: AnyManifest,
  host: Host,
  findings: Findings,
): Promise<void> {
  try {
    await verifyFiles(folder, manifest, host)
    await checkGraphs(folder, manifest)
  } catch (error) {
    if (!(error instanceof InputError)) throw error
    findings.problems.push(...error.problems.map(({ message }) => message))
  }
  const hashes = new Map(manifest.files.map(({ path, sha256 }) => [path, sha256]))
  for (const { name, digest, file } of manifest.adapters) {
    if (file === undefined || hashes.get(file) === digest) continue
    findings.problems.push(`adapter "${name}": ${file} is ${hashes.get(file)}, not ${digest} as the manifest says`)
  }
}
