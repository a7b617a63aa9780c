-- Every change of the registry moves the epoch of its tenant ('' for what belongs to none), on one counter for all.
-- UPDATE after INSERT rather than an upsert: the conflict clause of the statement that fired would override the trigger's.
CREATE TRIGGER `users_insert_epoch` AFTER INSERT ON `users` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `users_update_epoch` AFTER UPDATE ON `users` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `users_delete_epoch` AFTER DELETE ON `users` BEGIN
  INSERT INTO `policy_epochs` SELECT OLD.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = OLD.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = OLD.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `roles_insert_epoch` AFTER INSERT ON `roles` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `roles_update_epoch` AFTER UPDATE ON `roles` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `roles_delete_epoch` AFTER DELETE ON `roles` BEGIN
  INSERT INTO `policy_epochs` SELECT OLD.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = OLD.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = OLD.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `user_roles_insert_epoch` AFTER INSERT ON `user_roles` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `user_roles_update_epoch` AFTER UPDATE ON `user_roles` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `user_roles_delete_epoch` AFTER DELETE ON `user_roles` BEGIN
  INSERT INTO `policy_epochs` SELECT OLD.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = OLD.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = OLD.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `groups_insert_epoch` AFTER INSERT ON `groups` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `groups_update_epoch` AFTER UPDATE ON `groups` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `groups_delete_epoch` AFTER DELETE ON `groups` BEGIN
  INSERT INTO `policy_epochs` SELECT OLD.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = OLD.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = OLD.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `user_groups_insert_epoch` AFTER INSERT ON `user_groups` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `user_groups_update_epoch` AFTER UPDATE ON `user_groups` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `user_groups_delete_epoch` AFTER DELETE ON `user_groups` BEGIN
  INSERT INTO `policy_epochs` SELECT OLD.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = OLD.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = OLD.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `issuers_insert_epoch` AFTER INSERT ON `issuers` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `issuers_update_epoch` AFTER UPDATE ON `issuers` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `issuers_delete_epoch` AFTER DELETE ON `issuers` BEGIN
  INSERT INTO `policy_epochs` SELECT OLD.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = OLD.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = OLD.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `adapters_insert_epoch` AFTER INSERT ON `adapters` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `adapters_update_epoch` AFTER UPDATE ON `adapters` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `adapters_delete_epoch` AFTER DELETE ON `adapters` BEGIN
  INSERT INTO `policy_epochs` SELECT OLD.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = OLD.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = OLD.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `adapter_tags_insert_epoch` AFTER INSERT ON `adapter_tags` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `adapter_tags_update_epoch` AFTER UPDATE ON `adapter_tags` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `adapter_tags_delete_epoch` AFTER DELETE ON `adapter_tags` BEGIN
  INSERT INTO `policy_epochs` SELECT OLD.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = OLD.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = OLD.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `models_insert_epoch` AFTER INSERT ON `models` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `models_update_epoch` AFTER UPDATE ON `models` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `models_delete_epoch` AFTER DELETE ON `models` BEGIN
  INSERT INTO `policy_epochs` SELECT OLD.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = OLD.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = OLD.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `experiments_insert_epoch` AFTER INSERT ON `experiments` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `experiments_update_epoch` AFTER UPDATE ON `experiments` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `experiments_delete_epoch` AFTER DELETE ON `experiments` BEGIN
  INSERT INTO `policy_epochs` SELECT OLD.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = OLD.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = OLD.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `arms_insert_epoch` AFTER INSERT ON `arms` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `arms_update_epoch` AFTER UPDATE ON `arms` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `arms_delete_epoch` AFTER DELETE ON `arms` BEGIN
  INSERT INTO `policy_epochs` SELECT OLD.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = OLD.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = OLD.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `grants_insert_epoch` AFTER INSERT ON `grants` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `grants_update_epoch` AFTER UPDATE ON `grants` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `grants_delete_epoch` AFTER DELETE ON `grants` BEGIN
  INSERT INTO `policy_epochs` SELECT OLD.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = OLD.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = OLD.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `keys_insert_epoch` AFTER INSERT ON `keys` BEGIN
  INSERT INTO `policy_epochs` SELECT coalesce(NEW.`tenant_id`, ''), 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = coalesce(NEW.`tenant_id`, ''));
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = coalesce(NEW.`tenant_id`, '');
END;
--> statement-breakpoint
CREATE TRIGGER `keys_update_epoch` AFTER UPDATE ON `keys` BEGIN
  INSERT INTO `policy_epochs` SELECT coalesce(NEW.`tenant_id`, ''), 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = coalesce(NEW.`tenant_id`, ''));
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = coalesce(NEW.`tenant_id`, '');
END;
--> statement-breakpoint
CREATE TRIGGER `keys_delete_epoch` AFTER DELETE ON `keys` BEGIN
  INSERT INTO `policy_epochs` SELECT coalesce(OLD.`tenant_id`, ''), 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = coalesce(OLD.`tenant_id`, ''));
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = coalesce(OLD.`tenant_id`, '');
END;
--> statement-breakpoint
CREATE TRIGGER `tenants_insert_epoch` AFTER INSERT ON `tenants` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`id`;
END;
--> statement-breakpoint
CREATE TRIGGER `tenants_update_epoch` AFTER UPDATE ON `tenants` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`id`;
END;
--> statement-breakpoint
CREATE TRIGGER `tenants_delete_epoch` AFTER DELETE ON `tenants` BEGIN
  INSERT INTO `policy_epochs` SELECT OLD.`id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = OLD.`id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = OLD.`id`;
END;
--> statement-breakpoint
CREATE TRIGGER `bases_insert_epoch` AFTER INSERT ON `bases` BEGIN
  INSERT INTO `policy_epochs` SELECT '', 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = '');
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = '';
END;
--> statement-breakpoint
CREATE TRIGGER `bases_update_epoch` AFTER UPDATE ON `bases` BEGIN
  INSERT INTO `policy_epochs` SELECT '', 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = '');
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = '';
END;
--> statement-breakpoint
CREATE TRIGGER `bases_delete_epoch` AFTER DELETE ON `bases` BEGIN
  INSERT INTO `policy_epochs` SELECT '', 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = '');
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = '';
END;
--> statement-breakpoint
CREATE TRIGGER `backends_insert_epoch` AFTER INSERT ON `backends` BEGIN
  INSERT INTO `policy_epochs` SELECT '', 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = '');
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = '';
END;
--> statement-breakpoint
CREATE TRIGGER `backends_update_epoch` AFTER UPDATE ON `backends` BEGIN
  INSERT INTO `policy_epochs` SELECT '', 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = '');
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = '';
END;
--> statement-breakpoint
CREATE TRIGGER `backends_delete_epoch` AFTER DELETE ON `backends` BEGIN
  INSERT INTO `policy_epochs` SELECT '', 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = '');
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = '';
END;
--> statement-breakpoint
CREATE TRIGGER `compiles_insert_epoch` AFTER INSERT ON `compiles` BEGIN
  INSERT INTO `policy_epochs` SELECT '', 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = '');
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = '';
END;
--> statement-breakpoint
CREATE TRIGGER `compiles_update_epoch` AFTER UPDATE ON `compiles` BEGIN
  INSERT INTO `policy_epochs` SELECT '', 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = '');
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = '';
END;
--> statement-breakpoint
CREATE TRIGGER `compiles_delete_epoch` AFTER DELETE ON `compiles` BEGIN
  INSERT INTO `policy_epochs` SELECT '', 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = '');
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = '';
END;
