// `sidepath verify`: is an artifact what it says, and do its forms compute the same? Exit 1 where not.
import { openFolder } from '../runtime/disk.ts'
import { parseAdapterSpec, requireFolder } from './adapter-spec.ts'
import { UserError } from './fail.ts'
import { openBaseFolder } from './open-base.ts'
import { withTemporaryFolder } from './temporary-folder.ts'
import { describeVerification, runVerification } from './verification.ts'

export interface VerifyOptions {
  readonly base?: string
  /** `name=folder`, or a folder. */
  readonly adapter?: readonly string[]
  readonly seed?: string
  readonly json?: boolean
}

const EXIT_FAILED = 1
const MAX_SEED = 2 ** 32 - 1

export async function verifyCommand(artifact: string, options: VerifyOptions): Promise<void> {
  await requireFolder(artifact, 'artifact')
  const adapters = []
  for (const { name, path, weight } of (options.adapter ?? []).map(parseAdapterSpec)) {
    if (weight !== 1) throw new UserError(`--adapter "${name}": the weight is in the manifest; give name=folder.`)
    await requireFolder(path, `adapter "${name}"`)
    adapters.push({ name, folder: openFolder(path) })
  }
  const sources = { adapters, ...(options.base === undefined ? {} : { base: await openBaseFolder(options.base) }) }
  const seed = parseSeed(options.seed)
  const verification = await withTemporaryFolder('verify', (scratch) =>
    runVerification({ artifact, sources, scratch, ...(seed === undefined ? {} : { seed }) }, !options.json),
  )
  process.stdout.write(
    options.json
      ? `${JSON.stringify(verification)}\n`
      : `${verification.target} artifact ${verification.artifact}\n${describeVerification(verification)}\n`,
  )
  if (!verification.ok) process.exitCode = EXIT_FAILED
}

function parseSeed(text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  if (/^\d{1,10}$/.test(text) && Number(text) <= MAX_SEED) return Number(text)
  throw new UserError(`--seed "${text}": give a whole number from 0 to ${MAX_SEED}.`)
}
