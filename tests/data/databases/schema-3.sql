BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('v3.2.0.a');
CREATE TABLE sensitivity_alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	PRIMARY KEY (version_num)
);
INSERT INTO "sensitivity_alembic_version" VALUES('3');
CREATE TABLE sensitivity_attempts (
	evaluation VARCHAR(64) NOT NULL, 
	assignment VARCHAR(64) NOT NULL, 
	deaths INTEGER NOT NULL, 
	checksum VARCHAR(64), 
	PRIMARY KEY (evaluation, assignment)
);
INSERT INTO "sensitivity_attempts" VALUES('b49f52adccad3d61536ed23f4446f7e0f66b79070f85caa4796a834a3ab1ada1','44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a',0,'2e970aa724a33b568022899a2344403960302c1cef6c2a5c33de103a9e754462');
INSERT INTO "sensitivity_attempts" VALUES('b49f52adccad3d61536ed23f4446f7e0f66b79070f85caa4796a834a3ab1ada1','a1eaa7afc91ada390753aca292c69f2cb565a556f8c62d14949d70ff5dd4f9f7',0,'12e8350d652a8d2c8fa7f609235806aecc0c1f6aee65a5a45a2574ff32605a9b');
INSERT INTO "sensitivity_attempts" VALUES('b49f52adccad3d61536ed23f4446f7e0f66b79070f85caa4796a834a3ab1ada1','29d434ffeaa3cd8c7ae52d81587959df370fee0d0021467b1fb7fd2dd3a936d9',0,'343d45db9a8218ad152c19511a9f7f9d6c8acddbd428377b10ca5017139ade3b');
INSERT INTO "sensitivity_attempts" VALUES('b49f52adccad3d61536ed23f4446f7e0f66b79070f85caa4796a834a3ab1ada1','7af61d601cc9487c380ffc26a90f60d8d5e0ac4403bfda59fcee4c954c9733cd',0,'1e7c5227de15ce9644efeaabeac6552303b25571c417e6ae9636d9fe69327e86');
INSERT INTO "sensitivity_attempts" VALUES('b49f52adccad3d61536ed23f4446f7e0f66b79070f85caa4796a834a3ab1ada1','d95a992e4ed4a4a52d917f1af47cf2f69e9252a3aafbbd0ce25a362434d5f9f4',0,'db7e39461b16e90f07c2023894718498e9d2db58f673aa2a53e29aeb8320074f');
INSERT INTO "sensitivity_attempts" VALUES('b49f52adccad3d61536ed23f4446f7e0f66b79070f85caa4796a834a3ab1ada1','60d0552a0d61a5f636a7eaf36e6ba4dfddd7c4dae9b5e720d2f9a6cff7aef3c4',0,'39af5c15758acb0a316846abdece170991fc27c1197d3a1170d3206e101399ba');
INSERT INTO "sensitivity_attempts" VALUES('90e1e0ab8c42dacecb2da3b98975f9c68bfcd6eb50fef5c06c2934d58f3429f5','a1eaa7afc91ada390753aca292c69f2cb565a556f8c62d14949d70ff5dd4f9f7',0,'e25a87dd807d7a2e18350dc5bd237f189c55b2ca99076297a84396f2f5cc79fe');
INSERT INTO "sensitivity_attempts" VALUES('90e1e0ab8c42dacecb2da3b98975f9c68bfcd6eb50fef5c06c2934d58f3429f5','29d434ffeaa3cd8c7ae52d81587959df370fee0d0021467b1fb7fd2dd3a936d9',0,'9c30f6676f615e2069ea5731207c9c19b755af46f08e387e066c6b741109f1ab');
CREATE TABLE sensitivity_claims (
	scope VARCHAR(200) NOT NULL, 
	item VARCHAR(200) NOT NULL, 
	worker VARCHAR(128) NOT NULL, 
	token VARCHAR(32) NOT NULL, 
	taken FLOAT NOT NULL, 
	details VARCHAR NOT NULL, 
	PRIMARY KEY (scope, item)
);
CREATE TABLE sensitivity_layers (
	calibration VARCHAR(64) NOT NULL, 
	assignment VARCHAR(64) NOT NULL, 
	error FLOAT NOT NULL, 
	checksum VARCHAR(64), 
	PRIMARY KEY (calibration, assignment)
);
INSERT INTO "sensitivity_layers" VALUES('calibration','x[0]',0.01,'a72b13d203eb3b7cda8939414eadcc08a413607549a85972fe7facb7b8940c6d');
INSERT INTO "sensitivity_layers" VALUES('calibration','x[1]',0.02,'11076c94e38a77dbdcb2733926cd12c758b883854110dbe78d8ba852d41386c2');
INSERT INTO "sensitivity_layers" VALUES('calibration','x[2]',0.03,'fa23a44497e3db4dff2c040667df30e9268d50c857d86afc62f6e82e646011dd');
INSERT INTO "sensitivity_layers" VALUES('calibration','x[3]',0.04,'6b1566bd75e84cdc58dea65f5aa2c4d0b70ef880332f6d13815f534e7053eb10');
CREATE TABLE sensitivity_meta (
	"key" VARCHAR(64) NOT NULL, 
	value VARCHAR NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "sensitivity_meta" VALUES('schema','3');
CREATE TABLE sensitivity_scores (
	evaluation VARCHAR(64) NOT NULL, 
	assignment VARCHAR(64) NOT NULL, 
	net VARCHAR(32) NOT NULL, 
	mean FLOAT NOT NULL, 
	score VARCHAR NOT NULL, 
	seconds FLOAT NOT NULL, 
	created VARCHAR(32) NOT NULL, 
	checksum VARCHAR(64), 
	PRIMARY KEY (evaluation, assignment)
);
INSERT INTO "sensitivity_scores" VALUES('b49f52adccad3d61536ed23f4446f7e0f66b79070f85caa4796a834a3ab1ada1','44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a','tiny',0.0,'{"net": "tiny", "mean": 0.0, "per_prompt": [0.0, 0.0, 0.0, 0.0, 0.0, 0.0], "noise_floor": null}',4.56445000054372940212e-04,'2026-11-29T09:53:05+00:00','f1ddac11cb620b3e8369e7d497ca4a27ba2a70fee9c0598f3c4a990cf5cbbbec');
INSERT INTO "sensitivity_scores" VALUES('b49f52adccad3d61536ed23f4446f7e0f66b79070f85caa4796a834a3ab1ada1','a1eaa7afc91ada390753aca292c69f2cb565a556f8c62d14949d70ff5dd4f9f7','tiny',5.78547288125070488518e-02,'{"net": "tiny", "mean": 0.05785472881250705, "per_prompt": [0.06961640602722764, 0.05148888270929456, 0.059013005160726606, 0.053369558730162685, 0.05048672570101917, 0.0631537945466116], "noise_floor": null}',3.01973999739857390522e-04,'2026-11-29T09:53:05+00:00','01fc7c97d4ca5ee0fd8a89f38f3893de59aa10fe01ef9a238f769e61673cc7e1');
INSERT INTO "sensitivity_scores" VALUES('b49f52adccad3d61536ed23f4446f7e0f66b79070f85caa4796a834a3ab1ada1','29d434ffeaa3cd8c7ae52d81587959df370fee0d0021467b1fb7fd2dd3a936d9','tiny',4.460666228846336262e-02,'{"net": "tiny", "mean": 0.04460666228846336, "per_prompt": [0.05420633126609027, 0.03688676820322871, 0.04589196560252458, 0.03977875023242086, 0.038314382765442134, 0.05256177566107363], "noise_floor": null}',3.25379000059911049902e-04,'2026-11-29T09:53:05+00:00','8c494d263cbf2c9c3a00dfeda978107bba37261c70b4eb1546d8b046a564813a');
INSERT INTO "sensitivity_scores" VALUES('b49f52adccad3d61536ed23f4446f7e0f66b79070f85caa4796a834a3ab1ada1','7af61d601cc9487c380ffc26a90f60d8d5e0ac4403bfda59fcee4c954c9733cd','tiny',3.36667902135911120686e-02,'{"net": "tiny", "mean": 0.03366679021359111, "per_prompt": [0.039144942577928304, 0.03261516279354692, 0.03167858219984919, 0.030211465676315132, 0.032705398896709086, 0.03564518913719803], "noise_floor": null}',6.65398999899480259045e-04,'2026-11-29T09:53:05+00:00','6c72fc92bb3af103a6aa0ee2744c57bdc9b6c08f3f5ffa454abb11db403d13a8');
INSERT INTO "sensitivity_scores" VALUES('b49f52adccad3d61536ed23f4446f7e0f66b79070f85caa4796a834a3ab1ada1','60d0552a0d61a5f636a7eaf36e6ba4dfddd7c4dae9b5e720d2f9a6cff7aef3c4','tiny',2.41879385989159367831e-02,'{"net": "tiny", "mean": 0.024187938598915937, "per_prompt": [0.030471463449299335, 0.01887371991574764, 0.02733442296087742, 0.023158093053847553, 0.017781326804310084, 0.027508605409413578], "noise_floor": null}',5.96957000198017340153e-04,'2026-11-29T09:53:05+00:00','cc0d6ce94494b1fef79c4f5dc5f675b26e404b4cdf04af276d89205a6dd957e4');
INSERT INTO "sensitivity_scores" VALUES('90e1e0ab8c42dacecb2da3b98975f9c68bfcd6eb50fef5c06c2934d58f3429f5','a1eaa7afc91ada390753aca292c69f2cb565a556f8c62d14949d70ff5dd4f9f7','tiny',6.02454455879827335817e-02,'{"net": "tiny", "mean": 0.060245445587982734, "per_prompt": [0.06461141248140484, 0.06080346542783081, 0.0637658076370135, 0.05293111623637378, 0.06019902394432575, 0.05916184780094773], "noise_floor": null}',3.12749999920924892649e-04,'2026-11-29T09:53:05+00:00','a98b8991ec609a4df0b38b1f95546da281d4100d3d6f55784a96e736239a342a');
INSERT INTO "sensitivity_scores" VALUES('90e1e0ab8c42dacecb2da3b98975f9c68bfcd6eb50fef5c06c2934d58f3429f5','29d434ffeaa3cd8c7ae52d81587959df370fee0d0021467b1fb7fd2dd3a936d9','tiny',4.70536067203308205897e-02,'{"net": "tiny", "mean": 0.04705360672033082, "per_prompt": [0.050419378622435035, 0.04485350120812655, 0.04802980345953256, 0.04445284980162978, 0.045051697799004614, 0.04951440943125635], "noise_floor": null}',3.52999999904568539932e-04,'2026-11-29T09:53:05+00:00','3d45b4a1507d5b24db170fc407362c9ebd7373619601b6d9282b74cf80a480dd');
CREATE TABLE sensitivity_seals (
	study_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	checksums VARCHAR NOT NULL, 
	PRIMARY KEY (study_id, trial_id)
);
INSERT INTO "sensitivity_seals" VALUES(1,0,'{"studies": "2b7ccceb190e176774801dd985933edc", "study_directions": "914bc92a0b9ad57100abe190cee182ef", "study_user_attributes": "36f429d45538674d6119dbbe3affba90", "study_system_attributes": "5e609f7f260e59a388c621a2a1732626"}');
INSERT INTO "sensitivity_seals" VALUES(1,1,'{"trials": "999368b6685b6e84aaf9c08f2d5cfd0f", "trial_params": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "trial_values": "2a30be272cbee91b00707c92e6c28711", "trial_intermediate_values": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "trial_user_attributes": "2acbc235f8d5bac4aaa706a84ad23056", "trial_system_attributes": "4f53cda18c2baa0c0354bb5f9a3ecbe5"}');
INSERT INTO "sensitivity_seals" VALUES(1,2,'{"trials": "3a4c96bc72f64ea5e295d214d52097fd", "trial_params": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "trial_values": "cb3b46b6a939df5c5c902c6ce27bcb2a", "trial_intermediate_values": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "trial_user_attributes": "70f4310da770bee6612abfc1a4070658", "trial_system_attributes": "4f53cda18c2baa0c0354bb5f9a3ecbe5"}');
INSERT INTO "sensitivity_seals" VALUES(1,3,'{"trials": "262fcfe9c1ade8f69afd3353e0a544ae", "trial_params": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "trial_values": "d3c112c76772df465da16e1c68b48744", "trial_intermediate_values": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "trial_user_attributes": "73d46253e7a7b486671d21365831fe8a", "trial_system_attributes": "4f53cda18c2baa0c0354bb5f9a3ecbe5"}');
INSERT INTO "sensitivity_seals" VALUES(1,4,'{"trials": "999c37b8091f413453a4facd0a89a5c5", "trial_params": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "trial_values": "7165b18b21cc1d8dbd84888a8ad4d623", "trial_intermediate_values": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "trial_user_attributes": "393b6c72425b99e5eb307a59f51f47aa", "trial_system_attributes": "4f53cda18c2baa0c0354bb5f9a3ecbe5"}');
INSERT INTO "sensitivity_seals" VALUES(1,5,'{"trials": "04d03710fb02d1f4ddef122f264675c8", "trial_params": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "trial_values": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "trial_intermediate_values": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "trial_user_attributes": "195754739574e699a87da5f7c6422a3a", "trial_system_attributes": "4f53cda18c2baa0c0354bb5f9a3ecbe5"}');
INSERT INTO "sensitivity_seals" VALUES(1,6,'{"trials": "4e4c7e338bc6be97ff40eb55b2e2d022", "trial_params": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "trial_values": "fad176db5cddb67ed1912db5a66321e7", "trial_intermediate_values": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "trial_user_attributes": "2a84ee950424b4a093eabd81c1426a24", "trial_system_attributes": "4f53cda18c2baa0c0354bb5f9a3ecbe5"}');
CREATE TABLE sensitivity_shape_times (
	machine VARCHAR(64) NOT NULL, 
	compile_mode VARCHAR(32) NOT NULL, 
	shape VARCHAR(128) NOT NULL, 
	described VARCHAR NOT NULL, 
	"row" VARCHAR NOT NULL, 
	created VARCHAR(32) NOT NULL, 
	checksum VARCHAR(64), 
	PRIMARY KEY (machine, compile_mode, shape)
);
INSERT INTO "sensitivity_shape_times" VALUES('46ce55b352f3132ce4bb6666b52daae3ca36e894d7a32d64958e46420126e652','default','64x64x64','{"gpu": "b200"}','{"us": [1.5, 1.25]}','2026-11-29T09:53:05+00:00','9986266afb86e7f58e89a5544cfc9a0a555f73ad46308816ecb064a7bceeda99');
CREATE TABLE sensitivity_trials (
	study_id INTEGER NOT NULL, 
	choice VARCHAR(64) NOT NULL, 
	place INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	PRIMARY KEY (study_id, choice), 
	UNIQUE (study_id, place)
);
INSERT INTO "sensitivity_trials" VALUES(1,'a90d007c2fc57df6e0f2928df79a54a9677f79afcbd89399d8a7da5010264237',0,1);
INSERT INTO "sensitivity_trials" VALUES(1,'7112a20f8224a851d514a98ae70e2c7f46192ad025cd04b6ad42ef9b030b10da',1,2);
INSERT INTO "sensitivity_trials" VALUES(1,'01226da695de2ca3cfc11c5f0fc5bbbb937fd9bdb0a9bd98e9f51cd4f08d4c1e',2,3);
INSERT INTO "sensitivity_trials" VALUES(1,'de1f847629870ecb3418885de47e71e1c01c1b528652482f5163a4d96dd47216',3,4);
INSERT INTO "sensitivity_trials" VALUES(1,'f14e1817ec32b1b56496099edd5f1ec5df31b832362e6a9b1f0d5f283ab96271',4,5);
INSERT INTO "sensitivity_trials" VALUES(1,'94de9e90e231b35b7c4d961d497aa72dbb63d9c05d3b6bcd98e65cb06554a9f0',5,6);
CREATE TABLE sensitivity_workers (
	worker VARCHAR(128) NOT NULL, 
	seen FLOAT NOT NULL, 
	began FLOAT NOT NULL, 
	lease_s FLOAT NOT NULL, 
	activity VARCHAR NOT NULL, 
	PRIMARY KEY (worker)
);
INSERT INTO "sensitivity_workers" VALUES('node1:16130:24b7ddb8',1.7959459858270168304e+09,1.79594598395400333401e+09,0.0,'{"host":"node1","process":16130,"machine":"00000000-0000-0000-0000-000000000000 pid:[1] time:[2]","started":347765,"device":"","device_name":"","work":"search","study":"","stage":"ended","what":"","done":0,"total":null,"budget":null,"trials":0,"pace_s":null,"beside_s":null,"began":"2026-11-29T09:53:03.950515Z","stage_began":"2026-11-29T09:53:03.950515Z","seen":"2026-11-29T09:53:05.827183Z","ends":null,"how":"finished","command":""}');
CREATE TABLE studies (
	study_id INTEGER NOT NULL, 
	study_name VARCHAR(512) NOT NULL, 
	PRIMARY KEY (study_id)
);
INSERT INTO "studies" VALUES(1,'fake-nvfp4-b200-3ae1c33f');
CREATE TABLE study_directions (
	study_direction_id INTEGER NOT NULL, 
	direction VARCHAR(8) NOT NULL, 
	study_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	PRIMARY KEY (study_direction_id), 
	UNIQUE (study_id, objective), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_directions" VALUES(1,'MINIMIZE',1,0);
INSERT INTO "study_directions" VALUES(2,'MINIMIZE',1,1);
CREATE TABLE study_system_attributes (
	study_system_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_system_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_system_attributes" VALUES(1,1,'study:metric_names','["latency_s", "typical_lpips"]');
CREATE TABLE study_user_attributes (
	study_user_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_user_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_user_attributes" VALUES(1,1,'sensitivity','1');
INSERT INTO "study_user_attributes" VALUES(2,1,'settings','{"model": "fake", "formats": ["nvfp4"], "target": "b200", "budget": 3, "seed": 0, "sampler": "random", "granularity": "group", "calibrated": true, "arithmetic": "eager", "emulate": null, "latency": "predicted", "runtime": "torchao-graphs", "objective": null, "consumers": []}');
INSERT INTO "study_user_attributes" VALUES(3,1,'errors','null');
CREATE TABLE trial_heartbeats (
	trial_heartbeat_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	heartbeat DATETIME NOT NULL, 
	PRIMARY KEY (trial_heartbeat_id), 
	UNIQUE (trial_id), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_intermediate_values (
	trial_intermediate_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	intermediate_value FLOAT, 
	intermediate_value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_intermediate_value_id), 
	UNIQUE (trial_id, step), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_params (
	param_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	param_name VARCHAR(512), 
	param_value FLOAT, 
	distribution_json TEXT, 
	PRIMARY KEY (param_id), 
	UNIQUE (trial_id, param_name), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_system_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_user_attributes" VALUES(1,1,'choice','"[0, 0, 0, 0]"');
INSERT INTO "trial_user_attributes" VALUES(2,1,'label','"none"');
INSERT INTO "trial_user_attributes" VALUES(3,1,'seconds','0.039278998999634496');
INSERT INTO "trial_user_attributes" VALUES(4,1,'score','"{\"net\": \"tiny\", \"mean\": 0.0, \"per_prompt\": [0.0, 0.0, 0.0, 0.0, 0.0, 0.0], \"noise_floor\": null}"');
INSERT INTO "trial_user_attributes" VALUES(5,1,'index','0');
INSERT INTO "trial_user_attributes" VALUES(6,2,'choice','"[1, 1, 1, 1]"');
INSERT INTO "trial_user_attributes" VALUES(7,2,'label','"all nvfp4"');
INSERT INTO "trial_user_attributes" VALUES(8,2,'seconds','0.04281405599977006');
INSERT INTO "trial_user_attributes" VALUES(9,2,'score','"{\"net\": \"tiny\", \"mean\": 0.05785472881250705, \"per_prompt\": [0.06961640602722764, 0.05148888270929456, 0.059013005160726606, 0.053369558730162685, 0.05048672570101917, 0.0631537945466116], \"noise_floor\": null}"');
INSERT INTO "trial_user_attributes" VALUES(10,2,'index','1');
INSERT INTO "trial_user_attributes" VALUES(11,3,'choice','"[1, 0, 1, 1]"');
INSERT INTO "trial_user_attributes" VALUES(12,3,'label','"rule of thumb"');
INSERT INTO "trial_user_attributes" VALUES(13,3,'seconds','0.07867148799959978');
INSERT INTO "trial_user_attributes" VALUES(14,3,'score','"{\"net\": \"tiny\", \"mean\": 0.04460666228846336, \"per_prompt\": [0.05420633126609027, 0.03688676820322871, 0.04589196560252458, 0.03977875023242086, 0.038314382765442134, 0.05256177566107363], \"noise_floor\": null}"');
INSERT INTO "trial_user_attributes" VALUES(15,3,'index','2');
INSERT INTO "trial_user_attributes" VALUES(16,4,'choice','"[1, 1, 1, 0]"');
INSERT INTO "trial_user_attributes" VALUES(17,4,'label','""');
INSERT INTO "trial_user_attributes" VALUES(18,4,'seconds','0.05057621200012363');
INSERT INTO "trial_user_attributes" VALUES(19,4,'score','"{\"net\": \"tiny\", \"mean\": 0.03366679021359111, \"per_prompt\": [0.039144942577928304, 0.03261516279354692, 0.03167858219984919, 0.030211465676315132, 0.032705398896709086, 0.03564518913719803], \"noise_floor\": null}"');
INSERT INTO "trial_user_attributes" VALUES(20,4,'index','3');
INSERT INTO "trial_user_attributes" VALUES(21,5,'choice','"[0, 1, 0, 1]"');
INSERT INTO "trial_user_attributes" VALUES(22,5,'label','""');
INSERT INTO "trial_user_attributes" VALUES(23,5,'seconds','0.012371295999855647');
INSERT INTO "trial_user_attributes" VALUES(24,5,'stopped','{"prompts": 4, "share": 0.6666666666666666, "rival": 3, "p_value": 0.005148347755378436, "estimate": 0.039036111255474584}');
INSERT INTO "trial_user_attributes" VALUES(25,5,'index','4');
INSERT INTO "trial_user_attributes" VALUES(26,6,'choice','"[0, 0, 0, 1]"');
INSERT INTO "trial_user_attributes" VALUES(27,6,'label','""');
INSERT INTO "trial_user_attributes" VALUES(28,6,'seconds','0.040483116999894264');
INSERT INTO "trial_user_attributes" VALUES(29,6,'score','"{\"net\": \"tiny\", \"mean\": 0.024187938598915937, \"per_prompt\": [0.030471463449299335, 0.01887371991574764, 0.02733442296087742, 0.023158093053847553, 0.017781326804310084, 0.027508605409413578], \"noise_floor\": null}"');
INSERT INTO "trial_user_attributes" VALUES(30,6,'index','5');
CREATE TABLE trial_values (
	trial_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	value FLOAT, 
	value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_value_id), 
	UNIQUE (trial_id, objective), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_values" VALUES(1,1,0,3.0,'FINITE');
INSERT INTO "trial_values" VALUES(2,1,1,0.0,'FINITE');
INSERT INTO "trial_values" VALUES(3,2,0,2.42,'FINITE');
INSERT INTO "trial_values" VALUES(4,2,1,5.74610945364603109553e-02,'FINITE');
INSERT INTO "trial_values" VALUES(5,3,0,2.55,'FINITE');
INSERT INTO "trial_values" VALUES(6,3,1,4.40950823339701161729e-02,'FINITE');
INSERT INTO "trial_values" VALUES(7,4,0,2.61,'FINITE');
INSERT INTO "trial_values" VALUES(8,4,1,3.35435403626674760735e-02,'FINITE');
INSERT INTO "trial_values" VALUES(9,6,0,2.81,'FINITE');
INSERT INTO "trial_values" VALUES(10,6,1,2.37191844870258926325e-02,'FINITE');
CREATE TABLE trials (
	trial_id INTEGER NOT NULL, 
	number INTEGER, 
	study_id INTEGER, 
	state VARCHAR(8) NOT NULL, 
	datetime_start DATETIME, 
	datetime_complete DATETIME, 
	PRIMARY KEY (trial_id), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "trials" VALUES(1,0,1,'COMPLETE','2026-11-29 09:53:05.029130','2026-11-29 09:53:05.068409');
INSERT INTO "trials" VALUES(2,1,1,'COMPLETE','2026-11-29 09:53:05.206447','2026-11-29 09:53:05.249261');
INSERT INTO "trials" VALUES(3,2,1,'COMPLETE','2026-11-29 09:53:05.339994','2026-11-29 09:53:05.418665');
INSERT INTO "trials" VALUES(4,3,1,'COMPLETE','2026-11-29 09:53:05.523014','2026-11-29 09:53:05.573590');
INSERT INTO "trials" VALUES(5,4,1,'PRUNED','2026-11-29 09:53:05.643274','2026-11-29 09:53:05.655645');
INSERT INTO "trials" VALUES(6,5,1,'COMPLETE','2026-11-29 09:53:05.726578','2026-11-29 09:53:05.767061');
CREATE TABLE version_info (
	version_info_id INTEGER NOT NULL, 
	schema_version INTEGER, 
	library_version VARCHAR(256), 
	PRIMARY KEY (version_info_id), 
	CHECK (version_info_id=1)
);
INSERT INTO "version_info" VALUES(1,12,'5.0.0');
CREATE UNIQUE INDEX ix_studies_study_name ON studies (study_name);
CREATE INDEX ix_trials_study_id ON trials (study_id);
COMMIT;
