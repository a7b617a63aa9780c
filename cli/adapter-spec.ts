// How a verb is told its adapters and folders, and what it says of those that are not there.
import { stat } from 'node:fs/promises'
import { basename, resolve } from 'node:path'
import { AdapterName } from '../compiler/contract.ts'
import { UserError } from './fail.ts'

export interface AdapterSpec {
  readonly name: string
  readonly path: string
  readonly weight: number
}

/** `name=folder`, `name*weight=folder`, or a folder, whose last part is then the name. */
export function parseAdapterSpec(spec: string): AdapterSpec {
  const match = /^([^=*/]+)(?:\*([^=]+))?=(.+)$/s.exec(spec)
  const name = match?.[1] ?? basename(resolve(spec))
  const path = match?.[3] ?? spec
  requireLocal(path, '--adapter')
  const weight = match?.[2] === undefined ? 1 : Number(match[2])
  if (!Number.isFinite(weight)) {
    throw new UserError(
      `--adapter "${spec}": the weight "${match?.[2]}" is not a number; write e.g. ${name}*0.5=${path}.`,
    )
  }
  if (!AdapterName.safeParse(name).success) {
    throw new UserError(
      `--adapter "${spec}": the name "${name}" may have a–z, 0–9, ".", "_" and "-", at most 64, and begins with a ` +
        'letter or digit; write name=folder.',
    )
  }
  return { name, path, weight }
}

/** What a verb reads is on this machine: a name on the Hub means something else tomorrow. */
export function requireLocal(path: string, subject: string): void {
  if (!/^hf:[^/]+\/[^/]+$/.test(path)) return
  const folder = path.replace(/^.*\/|@.*$/g, '')
  throw new UserError(
    `${subject}: "${path}" is on the Hub; pull it first, \`sidepath pull ${path} --out ./${folder}\`, and give that folder.`,
  )
}

export async function requireFolder(path: string, subject: string): Promise<void> {
  requireLocal(path, subject)
  const there = await stat(path).catch(() => undefined)
  if (there?.isDirectory()) return
  const found = there === undefined ? 'does not exist' : 'is a file'
  throw new UserError(`${subject}: "${path}" ${found}; give the folder that holds its config and safetensors files.`)
}
