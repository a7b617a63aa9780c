// Every route of the gateway, declared. A route that is missing here fails a test.
import type { RouteConfig } from '@hono/zod-openapi'
import { experiments } from './experiments.ts'
import { identity } from './identity.ts'
import { inference, unguarded } from './inference.ts'
import { permissions } from './permissions.ts'
import { reference } from './reference.ts'
import { serving } from './serving.ts'
import { usage } from './usage.ts'

export const ROUTES: readonly RouteConfig[] = [
  ...unguarded,
  ...inference,
  ...identity,
  ...serving,
  ...permissions,
  ...experiments,
  ...usage,
  ...reference,
]
