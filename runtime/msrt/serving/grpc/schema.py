"""Generated of oip.proto by `make protobuf`; do not edit."""

__all__ = ["DESCRIPTOR_SET"]

DESCRIPTOR_SET = (
    b'\n\xd50\n\toip.proto\x12\x08msrt.oip"\x07\n\x05Empty"(\n\x12ServerLiveR'
    b'esponse\x12\x12\n\x04live\x18\x01 \x01(\x08R\x04live"+\n\x13ServerReadyRespon'
    b'se\x12\x14\n\x05ready\x18\x01 \x01(\x08R\x05ready"f\n\x16ServerMetadataRespon'
    b"se\x12\x12\n\x04name\x18\x01 \x01(\tR\x04name\x12\x18\n\x07version\x18\x02 \x01(\tR\x07version"
    b'\x12\x1e\n\nextensions\x18\x03 \x03(\tR\nextensions"<\n\x0cModelRequest'
    b'\x12\x12\n\x04name\x18\x01 \x01(\tR\x04name\x12\x18\n\x07version\x18\x02 \x01(\tR\x07version"*'
    b'\n\x12ModelReadyResponse\x12\x14\n\x05ready\x18\x01 \x01(\x08R\x05ready"V\n\x0eTe'
    b"nsorMetadata\x12\x12\n\x04name\x18\x01 \x01(\tR\x04name\x12\x1a\n\x08datatype\x18\x02 \x01"
    b'(\tR\x08datatype\x12\x14\n\x05shape\x18\x03 \x03(\x03R\x05shape"\xc9\x01\n\x15ModelMeta'
    b"dataResponse\x12\x12\n\x04name\x18\x01 \x01(\tR\x04name\x12\x1a\n\x08versions\x18\x02 \x03"
    b"(\tR\x08versions\x12\x1a\n\x08platform\x18\x03 \x01(\tR\x08platform\x120\n\x06inpu"
    b"ts\x18\x04 \x03(\x0b2\x18.msrt.oip.TensorMetadataR\x06inputs\x122\n\x07ou"
    b'tputs\x18\x05 \x03(\x0b2\x18.msrt.oip.TensorMetadataR\x07outputs"\xd7'
    b"\x01\n\x0eInferParameter\x12\x1f\n\nbool_param\x18\x01 \x01(\x08H\x00R\tboolPar"
    b"am\x12!\n\x0bint64_param\x18\x02 \x01(\x03H\x00R\nint64Param\x12#\n\x0cstring_"
    b"param\x18\x03 \x01(\tH\x00R\x0bstringParam\x12#\n\x0cdouble_param\x18\x04 \x01(\x01"
    b"H\x00R\x0bdoubleParam\x12#\n\x0cuint64_param\x18\x05 \x01(\x04H\x00R\x0buint64P"
    b'aramB\x12\n\x10parameter_choice"\xc3\x02\n\x13InferTensorContents'
    b"\x12#\n\rbool_contents\x18\x01 \x03(\x08R\x0cboolContents\x12!\n\x0cint_con"
    b"tents\x18\x02 \x03(\x05R\x0bintContents\x12%\n\x0eint64_contents\x18\x03 \x03(\x03"
    b"R\rint64Contents\x12#\n\ruint_contents\x18\x04 \x03(\rR\x0cuintCont"
    b"ents\x12'\n\x0fuint64_contents\x18\x05 \x03(\x04R\x0euint64Contents\x12#\n"
    b"\rfp32_contents\x18\x06 \x03(\x02R\x0cfp32Contents\x12#\n\rfp64_conte"
    b"nts\x18\x07 \x03(\x01R\x0cfp64Contents\x12%\n\x0ebytes_contents\x18\x08 \x03(\x0cR"
    b'\rbytesContents"\xae\x02\n\x0bInferTensor\x12\x12\n\x04name\x18\x01 \x01(\tR\x04na'
    b"me\x12\x1a\n\x08datatype\x18\x02 \x01(\tR\x08datatype\x12\x14\n\x05shape\x18\x03 \x03(\x03R\x05s"
    b"hape\x12E\n\nparameters\x18\x04 \x03(\x0b2%.msrt.oip.InferTensor."
    b"ParametersEntryR\nparameters\x129\n\x08contents\x18\x05 \x01(\x0b2\x1d."
    b"msrt.oip.InferTensorContentsR\x08contents\x1aW\n\x0fParame"
    b"tersEntry\x12\x10\n\x03key\x18\x01 \x01(\tR\x03key\x12.\n\x05value\x18\x02 \x01(\x0b2\x18.msr"
    b't.oip.InferParameterR\x05value:\x028\x01"\xd3\x01\n\x14InferRequest'
    b"edOutput\x12\x12\n\x04name\x18\x01 \x01(\tR\x04name\x12N\n\nparameters\x18\x02 \x03(\x0b"
    b"2..msrt.oip.InferRequestedOutput.ParametersEntry"
    b"R\nparameters\x1aW\n\x0fParametersEntry\x12\x10\n\x03key\x18\x01 \x01(\tR\x03ke"
    b"y\x12.\n\x05value\x18\x02 \x01(\x0b2\x18.msrt.oip.InferParameterR\x05valu"
    b'e:\x028\x01"\xa4\x03\n\x11ModelInferRequest\x12\x1d\n\nmodel_name\x18\x01 \x01(\tR'
    b"\tmodelName\x12#\n\rmodel_version\x18\x02 \x01(\tR\x0cmodelVersion\x12"
    b"\x0e\n\x02id\x18\x03 \x01(\tR\x02id\x12K\n\nparameters\x18\x04 \x03(\x0b2+.msrt.oip.M"
    b"odelInferRequest.ParametersEntryR\nparameters\x12-\n\x06"
    b"inputs\x18\x05 \x03(\x0b2\x15.msrt.oip.InferTensorR\x06inputs\x128\n\x07o"
    b"utputs\x18\x06 \x03(\x0b2\x1e.msrt.oip.InferRequestedOutputR\x07ou"
    b"tputs\x12,\n\x12raw_input_contents\x18\x07 \x03(\x0cR\x10rawInputConte"
    b"nts\x1aW\n\x0fParametersEntry\x12\x10\n\x03key\x18\x01 \x01(\tR\x03key\x12.\n\x05valu"
    b'e\x18\x02 \x01(\x0b2\x18.msrt.oip.InferParameterR\x05value:\x028\x01"\xf0\x02\n'
    b"\x12ModelInferResponse\x12\x1d\n\nmodel_name\x18\x01 \x01(\tR\tmodelNa"
    b"me\x12#\n\rmodel_version\x18\x02 \x01(\tR\x0cmodelVersion\x12\x0e\n\x02id\x18\x03 "
    b"\x01(\tR\x02id\x12L\n\nparameters\x18\x04 \x03(\x0b2,.msrt.oip.ModelInfe"
    b"rResponse.ParametersEntryR\nparameters\x12/\n\x07outputs"
    b"\x18\x05 \x03(\x0b2\x15.msrt.oip.InferTensorR\x07outputs\x12.\n\x13raw_ou"
    b"tput_contents\x18\x06 \x03(\x0cR\x11rawOutputContents\x1aW\n\x0fParame"
    b"tersEntry\x12\x10\n\x03key\x18\x01 \x01(\tR\x03key\x12.\n\x05value\x18\x02 \x01(\x0b2\x18.msr"
    b't.oip.InferParameterR\x05value:\x028\x01"\x84\x01\n\x18ModelStreamI'
    b"nferResponse\x12#\n\rerror_message\x18\x01 \x01(\tR\x0cerrorMessag"
    b"e\x12C\n\x0einfer_response\x18\x02 \x01(\x0b2\x1c.msrt.oip.ModelInferR"
    b'esponseR\rinferResponse"W\n\x16RepositoryIndexRequest'
    b"\x12'\n\x0frepository_name\x18\x01 \x01(\tR\x0erepositoryName\x12\x14\n\x05rea"
    b'dy\x18\x02 \x01(\x08R\x05ready"h\n\nModelIndex\x12\x12\n\x04name\x18\x01 \x01(\tR\x04nam'
    b"e\x12\x18\n\x07version\x18\x02 \x01(\tR\x07version\x12\x14\n\x05state\x18\x03 \x01(\tR\x05stat"
    b'e\x12\x16\n\x06reason\x18\x04 \x01(\tR\x06reason"G\n\x17RepositoryIndexResp'
    b"onse\x12,\n\x06models\x18\x01 \x03(\x0b2\x14.msrt.oip.ModelIndexR\x06mode"
    b'ls"\xba\x01\n\x18ModelRepositoryParameter\x12\x1f\n\nbool_param\x18\x01 '
    b"\x01(\x08H\x00R\tboolParam\x12!\n\x0bint64_param\x18\x02 \x01(\x03H\x00R\nint64Pa"
    b"ram\x12#\n\x0cstring_param\x18\x03 \x01(\tH\x00R\x0bstringParam\x12!\n\x0bbyte"
    b's_param\x18\x04 \x01(\x0cH\x00R\nbytesParamB\x12\n\x10parameter_choice"'
    b"\x95\x02\n\x16RepositoryModelRequest\x12'\n\x0frepository_name\x18\x01 "
    b"\x01(\tR\x0erepositoryName\x12\x1d\n\nmodel_name\x18\x02 \x01(\tR\tmodelNa"
    b"me\x12P\n\nparameters\x18\x03 \x03(\x0b20.msrt.oip.RepositoryMode"
    b"lRequest.ParametersEntryR\nparameters\x1aa\n\x0fParamete"
    b'rsEntry\x12\x10\n\x03key\x18\x01 \x01(\tR\x03key\x128\n\x05value\x18\x02 \x01(\x0b2".msrt.'
    b'oip.ModelRepositoryParameterR\x05value:\x028\x01"9\n\x11Stati'
    b"sticDuration\x12\x14\n\x05count\x18\x01 \x01(\x04R\x05count\x12\x0e\n\x02ns\x18\x02 \x01(\x04R\x02"
    b'ns"\xea\x03\n\x0fInferStatistics\x125\n\x07success\x18\x01 \x01(\x0b2\x1b.msrt.o'
    b"ip.StatisticDurationR\x07success\x12/\n\x04fail\x18\x02 \x01(\x0b2\x1b.ms"
    b"rt.oip.StatisticDurationR\x04fail\x121\n\x05queue\x18\x03 \x01(\x0b2\x1b."
    b"msrt.oip.StatisticDurationR\x05queue\x12@\n\rcompute_inp"
    b"ut\x18\x04 \x01(\x0b2\x1b.msrt.oip.StatisticDurationR\x0ccomputeIn"
    b"put\x12@\n\rcompute_infer\x18\x05 \x01(\x0b2\x1b.msrt.oip.StatisticD"
    b"urationR\x0ccomputeInfer\x12B\n\x0ecompute_output\x18\x06 \x01(\x0b2\x1b."
    b"msrt.oip.StatisticDurationR\rcomputeOutput\x128\n\tcac"
    b"he_hit\x18\x07 \x01(\x0b2\x1b.msrt.oip.StatisticDurationR\x08cache"
    b"Hit\x12:\n\ncache_miss\x18\x08 \x01(\x0b2\x1b.msrt.oip.StatisticDura"
    b'tionR\tcacheMiss"\xfd\x01\n\x14InferBatchStatistics\x12\x1d\n\nbatc'
    b"h_size\x18\x01 \x01(\x04R\tbatchSize\x12@\n\rcompute_input\x18\x02 \x01(\x0b2\x1b"
    b".msrt.oip.StatisticDurationR\x0ccomputeInput\x12@\n\rcom"
    b"pute_infer\x18\x03 \x01(\x0b2\x1b.msrt.oip.StatisticDurationR\x0cc"
    b"omputeInfer\x12B\n\x0ecompute_output\x18\x04 \x01(\x0b2\x1b.msrt.oip.S"
    b'tatisticDurationR\rcomputeOutput"\xbd\x02\n\x0fModelStatist'
    b"ics\x12\x12\n\x04name\x18\x01 \x01(\tR\x04name\x12\x18\n\x07version\x18\x02 \x01(\tR\x07versio"
    b"n\x12%\n\x0elast_inference\x18\x03 \x01(\x04R\rlastInference\x12'\n\x0finfe"
    b"rence_count\x18\x04 \x01(\x04R\x0einferenceCount\x12'\n\x0fexecution_c"
    b"ount\x18\x05 \x01(\x04R\x0eexecutionCount\x12B\n\x0finference_stats\x18\x06 "
    b"\x01(\x0b2\x19.msrt.oip.InferStatisticsR\x0einferenceStats\x12?"
    b"\n\x0bbatch_stats\x18\x07 \x03(\x0b2\x1e.msrt.oip.InferBatchStatist"
    b'icsR\nbatchStats"U\n\x17ModelStatisticsResponse\x12:\n\x0bmo'
    b"del_stats\x18\x01 \x03(\x0b2\x19.msrt.oip.ModelStatisticsR\nmode"
    b'lStats"e\n\nModelInput\x12\x12\n\x04name\x18\x01 \x01(\tR\x04name\x12/\n\tdata'
    b"_type\x18\x02 \x01(\x0e2\x12.msrt.oip.DataTypeR\x08dataType\x12\x12\n\x04dim"
    b's\x18\x04 \x03(\x03R\x04dims"\x8d\x01\n\x0bModelOutput\x12\x12\n\x04name\x18\x01 \x01(\tR\x04nam'
    b"e\x12/\n\tdata_type\x18\x02 \x01(\x0e2\x12.msrt.oip.DataTypeR\x08dataTy"
    b"pe\x12\x12\n\x04dims\x18\x03 \x03(\x03R\x04dims\x12%\n\x0elabel_filename\x18\x04 \x01(\tR\r"
    b'labelFilename"\xbb\x02\n\x12ModelVersionPolicy\x12=\n\x06latest\x18\x01'
    b" \x01(\x0b2#.msrt.oip.ModelVersionPolicy.LatestH\x00R\x06lat"
    b"est\x124\n\x03all\x18\x02 \x01(\x0b2 .msrt.oip.ModelVersionPolicy.A"
    b"llH\x00R\x03all\x12C\n\x08specific\x18\x03 \x01(\x0b2%.msrt.oip.ModelVers"
    b"ionPolicy.SpecificH\x00R\x08specific\x1a+\n\x06Latest\x12!\n\x0cnum_"
    b"versions\x18\x01 \x01(\rR\x0bnumVersions\x1a\x05\n\x03All\x1a&\n\x08Specific\x12\x1a"
    b'\n\x08versions\x18\x01 \x03(\x03R\x08versionsB\x0f\n\rpolicy_choice"\x89\x01\n\x14'
    b"ModelDynamicBatching\x120\n\x14preferred_batch_size\x18\x01 \x03"
    b"(\x05R\x12preferredBatchSize\x12?\n\x1cmax_queue_delay_micros"
    b'econds\x18\x02 \x01(\x04R\x19maxQueueDelayMicroseconds"3\n\x0eModel'
    b'Parameter\x12!\n\x0cstring_value\x18\x01 \x01(\tR\x0bstringValue"\xbe\x04\n'
    b"\x0bModelConfig\x12\x12\n\x04name\x18\x01 \x01(\tR\x04name\x12\x1a\n\x08platform\x18\x02 \x01"
    b"(\tR\x08platform\x12C\n\x0eversion_policy\x18\x03 \x01(\x0b2\x1c.msrt.oip."
    b"ModelVersionPolicyR\rversionPolicy\x12$\n\x0emax_batch_s"
    b"ize\x18\x04 \x01(\x05R\x0cmaxBatchSize\x12*\n\x05input\x18\x05 \x03(\x0b2\x14.msrt.oi"
    b"p.ModelInputR\x05input\x12-\n\x06output\x18\x06 \x03(\x0b2\x15.msrt.oip.M"
    b"odelOutputR\x06output\x124\n\x16default_model_filename\x18\x08 \x01"
    b"(\tR\x14defaultModelFilename\x12I\n\x10dynamic_batching\x18\x0b \x01"
    b"(\x0b2\x1e.msrt.oip.ModelDynamicBatchingR\x0fdynamicBatch"
    b"ing\x12E\n\nparameters\x18\x0e \x03(\x0b2%.msrt.oip.ModelConfig.P"
    b"arametersEntryR\nparameters\x12\x18\n\x07backend\x18\x11 \x01(\tR\x07bac"
    b"kend\x1aW\n\x0fParametersEntry\x12\x10\n\x03key\x18\x01 \x01(\tR\x03key\x12.\n\x05val"
    b'ue\x18\x02 \x01(\x0b2\x18.msrt.oip.ModelParameterR\x05value:\x028\x01"D\n'
    b"\x13ModelConfigResponse\x12-\n\x06config\x18\x01 \x01(\x0b2\x15.msrt.oip."
    b"ModelConfigR\x06config*\xfa\x01\n\x08DataType\x12\x10\n\x0cTYPE_INVALID"
    b"\x10\x00\x12\r\n\tTYPE_BOOL\x10\x01\x12\x0e\n\nTYPE_UINT8\x10\x02\x12\x0f\n\x0bTYPE_UINT16"
    b"\x10\x03\x12\x0f\n\x0bTYPE_UINT32\x10\x04\x12\x0f\n\x0bTYPE_UINT64\x10\x05\x12\r\n\tTYPE_INT"
    b"8\x10\x06\x12\x0e\n\nTYPE_INT16\x10\x07\x12\x0e\n\nTYPE_INT32\x10\x08\x12\x0e\n\nTYPE_INT6"
    b"4\x10\t\x12\r\n\tTYPE_FP16\x10\n\x12\r\n\tTYPE_FP32\x10\x0b\x12\r\n\tTYPE_FP64\x10\x0c"
    b"\x12\x0f\n\x0bTYPE_STRING\x10\r\x12\r\n\tTYPE_BF16\x10\x0eb\x06proto3"
)
