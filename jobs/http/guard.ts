// The one credential: a bearer token that the operator chose. Without a usable one the service does not start.
import { createHash, timingSafeEqual } from 'node:crypto'
import type { MiddlewareHandler } from 'hono'
import { JobsError } from '../errors.ts'
import type { Env } from './env.ts'

export const TOKEN_VARIABLE = 'SIDEPATH_COMPILER_TOKEN'
const TOKEN = /^[\x21-\x7e]{32,512}$/

/** Throws `config_invalid`. */
export function requireToken(token: string | undefined): string {
  if (token !== undefined && TOKEN.test(token)) return token
  const found = token === undefined ? 'is not set' : 'is not usable'
  throw new JobsError(
    'config_invalid',
    `the token of the compiler service ${found}; set ${TOKEN_VARIABLE} to 32 to 512 printable characters without spaces`,
  )
}

export function guard(token: string): MiddlewareHandler<Env> {
  const expected = sha256(token)
  return async (context, next) => {
    const [, given = ''] = /^Bearer ([\x21-\x7e]{1,512})$/i.exec(context.req.header('authorization') ?? '') ?? []
    // Over digests: of one length, and compared in a time that tells nothing of the token.
    if (!timingSafeEqual(sha256(given), expected)) {
      throw new JobsError('token_invalid', 'the token is missing or not valid')
    }
    await next()
  }
}

function sha256(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}
