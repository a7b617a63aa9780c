// The admin plane's table of routes. The guard has already asked for an admin key.
import { Hono } from 'hono'
import type { GatewayEnv } from '../context.ts'
import { addAdminReference } from '../reference/add-reference.ts'
import { addAdapters } from './adapters.ts'
import { addAudit } from './audit.ts'
import { addBackendAdapters } from './backend-adapters.ts'
import { addBackends } from './backends.ts'
import { addBases } from './bases.ts'
import { addCompiles } from './compiles.ts'
import { addExperiments } from './experiments.ts'
import { addExplain } from './explain.ts'
import { addGrants } from './grants.ts'
import { addIssuers } from './issuers.ts'
import { addKeys } from './keys.ts'
import { addLimits } from './limits.ts'
import { addMetrics } from './metrics.ts'
import { addModels } from './models.ts'
import { addPrices } from './prices.ts'
import { addGroups, addRoles } from './roles.ts'
import { addTenants } from './tenants.ts'
import { addUsage } from './usage.ts'
import { addUsers } from './users.ts'

export function createAdmin(): Hono<GatewayEnv> {
  const admin = new Hono<GatewayEnv>()
  addTenants(admin)
  addUsers(admin)
  addRoles(admin)
  addGroups(admin)
  addIssuers(admin)
  addKeys(admin)
  addBases(admin)
  addBackends(admin)
  addBackendAdapters(admin)
  addAdapters(admin)
  addCompiles(admin)
  addModels(admin)
  addGrants(admin)
  addMetrics(admin)
  addExperiments(admin)
  addLimits(admin)
  addPrices(admin)
  addUsage(admin)
  addAudit(admin)
  addExplain(admin)
  addAdminReference(admin)
  return admin
}
