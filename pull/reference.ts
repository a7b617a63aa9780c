// `hf:OWNER/NAME[@REVISION]`, and the address of the Hub: what the user writes, checked before anything is asked.
import { PullError } from './errors.ts'

export interface Reference {
  /** `OWNER/NAME`. */
  readonly repo: string
  readonly name: string
  /** A branch, a tag, `refs/pr/1` or a commit. */
  readonly revision: string
}

export const DEFAULT_ENDPOINT = 'https://huggingface.co'
const DEFAULT_REVISION = 'main'
/** The Hub's own rule: letters, digits, ".", "_" and "-", at most 96, no ".." and no "--". */
const PART = /^(?!.*(\.\.|--))[A-Za-z0-9_][\w.-]{0,95}(?<![.-])$/
const REVISION = /^(?!.*(\.\.|\/\/))[A-Za-z0-9_][\w./-]{0,199}(?<![./])$/
/** Printable ASCII without a space: a line break in a header would begin another header. */
const TOKEN = /^[\x21-\x7e]{1,512}$/

export function parseReference(text: string): Reference {
  const [, owner = '', name = '', , revision = DEFAULT_REVISION] = /^hf:([^/@]+)\/([^/@]+)(@(.*))?$/s.exec(text) ?? []
  if (!PART.test(owner) || !PART.test(name)) {
    throw new PullError(
      'reference-invalid',
      `${JSON.stringify(text.slice(0, 200))} names no repository; write hf:OWNER/NAME or hf:OWNER/NAME@REVISION.`,
    )
  }
  if (!REVISION.test(revision)) {
    throw new PullError(
      'reference-invalid',
      `hf:${owner}/${name}: ${JSON.stringify(revision.slice(0, 200))} is no branch, tag or commit; write e.g. @main.`,
    )
  }
  return { repo: `${owner}/${name}`, name, revision }
}

/** Plain HTTP is for a stand-in on this machine: a token or weights would cross the network in the open. */
export function parseEndpoint(text: string = DEFAULT_ENDPOINT): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined
  const plain = url?.username === '' && url.password === '' && url.search === '' && url.hash === ''
  const safe = url?.protocol === 'https:' || (url?.protocol === 'http:' && isLoopback(url.hostname))
  if (url === undefined || !plain || !safe) {
    throw new PullError(
      'endpoint-invalid',
      'HF_ENDPOINT is no https address without credentials and query; unset it, or write e.g. https://huggingface.co.',
    )
  }
  return url
}

export function checkToken(token: string | undefined): string | undefined {
  if (token === undefined || token === '') return undefined
  if (TOKEN.test(token)) return token
  throw new PullError('token-invalid', 'HF_TOKEN holds spaces or line breaks; copy the token again, without them.')
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '[::1]' || /^127(\.\d{1,3}){3}$/.test(host)
}
